// The timing of rtl/store_unit.py.
#pragma once

#include <deque>

#include "bus.hpp"
#include "unit.hpp"

namespace wordline {

struct Store : Unit {
    enum { IDLE, PREPARE, FETCH, WORDS, GATHER, PACKED, NEXT, FINISH } state = IDLE;
    uint64_t address = 0, at = 0, awaddr = 0;
    int64_t count = 0, mode = 0, bits = 0, piece = 0, run_stride = 0;
    int64_t left = 0, lane = 0, part = 0, gathered = 0, written = 0, answered = 0;
    bool awvalid = false, wvalid = false, wrote = false;  // wrote: DRAM was, in the cycle stepped last
    std::deque<uint64_t> addresses;  // taken, their beats not yet
    int64_t beats = 0;               // taken, their addresses not yet
    std::deque<int64_t> ends;        // what must be answered for an instruction to have ended

    bool ready() const { return state == IDLE; }
    bool done() const { return !ends.empty() && answered >= ends.front(); }

    bool cycle(const Params &p, int64_t now, const Word *start, Bus &bus) {
        bool awready = bus.ready(AW, now), wready = bus.ready(W, now), answer = bus.answer_due(now);
        bool changed = answer || awvalid || wvalid;
        bool free = (!awvalid || awready) && (!wvalid || wready) && written - answered < OUTSTANDING;
        bool offer = false;
        if (done()) ends.pop_front(), changed = true;
        uint64_t target = at;
        cause = state == IDLE ? DATA : SETUP;
        if (awvalid && awready) addresses.push_back(awaddr);
        if (wvalid && wready) beats++;
        wrote = !addresses.empty() && beats;
        for (; !addresses.empty() && beats; beats--, addresses.pop_front())
            bus.write(now, addresses.front(), true, false);
        switch (state) {
        case IDLE:
            if (start) {
                address = start->get(store::address), count = start->get(store::count);
                mode = start->get(store::mode), bits = start->get(store::bits), piece = start->get(store::piece);
                run_stride = start->get(store::run_stride);
                state = PREPARE, changed = true;
            }
            break;
        case PREPARE:
            at = address, left = count, lane = part = gathered = 0;
            state = count ? FETCH : FINISH, changed = true;
            break;
        case FETCH:
            state = mode == PACKED_MODE ? GATHER : WORDS, changed = true, activity->words++;
            break;
        case WORDS: {
            bool ends = (int64_t)(at % p.beat_bytes) / 4 == p.beat_bytes / 4 - 1 || left == 1;
            offer = ends, cause = free || !ends ? WORK : ROOM;
            if (free || !ends) {
                changed = true;
                at += 4, left--;
                if (left == 0) state = FINISH;
                else if (lane == p.vector_lanes - 1) state = FETCH;
                lane = (lane + 1) % p.vector_lanes;
            }
            break;
        }
        case GATHER:
            cause = WORK, changed = true;
            gathered += p.vector_lanes;
            state = FETCH;
            if (gathered == piece) gathered = 0, state = PACKED;
            break;
        case PACKED:
            offer = true, cause = free ? WORK : ROOM;
            if (free) {
                changed = true;
                at += p.beat_bytes, part++;
                if (part == std::max<int64_t>(1, piece * bits / (8 * p.beat_bytes))) {
                    address += run_stride, left--, part = 0;
                    state = left ? NEXT : FINISH;
                }
            }
            break;
        case NEXT:
            at = address, state = GATHER, changed = true;
            break;
        case FINISH:
            ends.push_back(written), state = IDLE, changed = true;
            break;
        }
        written += offer && free, answered += answer;
        if (offer && free) activity->beats++;
        if (answer) bus.answered();
        if (awready) awvalid = false;
        if (wready) wvalid = false;
        if (offer && free) awvalid = wvalid = true, awaddr = target / p.beat_bytes * p.beat_bytes;
        return changed;
    }
};

}  // namespace wordline
