// The timing of rtl/stream_unit.py.
#pragma once

#include <deque>

#include "unit.hpp"

namespace wordline {

struct Stream : Unit {
    enum { IDLE, PREPARE, READ } state = IDLE;
    Reader reader;
    Fifo fifo;
    int64_t room = 0, flying = 0, most = 0;
    uint64_t address = 0;
    int64_t runs = 0, run_beats = 0, each = 0, stride = 0, expected = 0, arrived = 0;
    std::deque<int64_t> ends;

    bool ready() const { return state == IDLE; }
    bool done() const { return !ends.empty() && arrived >= ends.front(); }
    int64_t space() const { return std::min(room, most - flying); }

    bool cycle(const Params &p, const Word *start, bool beat, bool granted, bool taken) {
        bool changed = beat || taken, run = false, finished = done();
        uint64_t run_address = address;
        int64_t run_length = run_beats;
        cause = beat ? WORK : flying ? DATA : reader.state == Reader::ASK ? ROOM : SETUP;
        if (finished) ends.pop_front(), changed = true;
        switch (state) {
        case IDLE:
            if (start) {
                runs = start->get(stream::runs), each = start->get(stream::beats);
                stride = start->get(stream::stride), address = start->get(stream::address);
                state = PREPARE, changed = true;
            }
            break;
        case PREPARE:
            changed = true;
            expected += runs * each, activity->beats += runs * each;
            ends.push_back(expected);
            state = runs && each ? READ : IDLE;
            run_beats = stride == each ? runs * each : each;
            if (stride == each) runs = 1;
            break;
        case READ:
            run = true;
            if (reader.idle()) {
                reader.activity = activity;
                address += stride * p.beat_bytes, changed = true;
                if (--runs == 0) state = IDLE;
            }
            break;
        }
        int64_t asked = reader.step(p, run, run_address, run_length, granted, changed);
        arrived += beat;
        room += taken - asked, flying += asked - beat;
        changed |= fifo.step(beat, taken);
        return changed;
    }
};

}  // namespace wordline
