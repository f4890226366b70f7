// What the timing of every unit is made of: see cycles.cpp.
#pragma once

#include <algorithm>
#include <cstdint>

#include "isa.hpp"  // generated from rtl/ by sim/cycles.py

namespace wordline {

// What the configuration and the declared timings of PEs and units say; filled in by sim/cycles.py.
struct Params {
    int64_t beat_bytes, stream_beats, cols, lanes, vector_lanes, chunks, channel_beats, spacing, stream_window,
        pick_bits, dequant_latency, drain_latency, vector_prepare, multiply_latency, add_latency, plain_latency, int_latency,
        special_latency, sum_interval, sum_settle, sum_words, dram_latency, trit_beat, trit_step, ports,
        page_bytes, whole_beats;
    int64_t interval[16], latency[16];  // of the PEs, by weight kind
};

// An instruction.
struct Word {
    uint64_t bits[4];
    uint64_t get(Field f) const {
        uint64_t value = bits[f.offset / 64] >> (f.offset % 64);
        if (f.offset % 64 + f.width > 64) value |= bits[f.offset / 64 + 1] << (64 - f.offset % 64);
        return f.width == 64 ? value : value & ((1ull << f.width) - 1);
    }
    void set(Field f, uint64_t value) {
        for (int i = 0; i < f.width; i++) {
            int at = f.offset + i;
            bits[at / 64] = (bits[at / 64] & ~(1ull << at % 64)) | ((value >> i & 1) << at % 64);
        }
    }
};

// What one instruction of the program did, in all its executions; ACTIVITY in sim/cycles.py.
struct Activity {
    int64_t executions, beats, words, folds, steps, row_steps, tiles, row_tiles, activates, reads, writes;
};

struct Unit {
    Cause cause = NOTHING;         // of the cycle that was stepped last
    Activity *activity = nullptr;  // of the instruction that started last
};

// A SyncFIFOBuffered without its contents: a memory, and an output register behind it.
struct Fifo {
    int64_t inside = 0;
    bool ready = false;  // r_rdy
    bool step(bool write, bool read) {
        bool move = inside > 0 && (!ready || read);
        bool changed = write || move || (read && ready);
        inside += write, inside -= move;
        if (move) ready = true;
        else if (read) ready = false;
        return changed;
    }
};

// rtl.read_port.RunReader: cuts a run into bursts.
struct Reader {
    enum { IDLE, MEASURE, ASK } state = IDLE;
    uint64_t address = 0;
    int64_t left = 0, burst = 0;
    Activity *activity = nullptr;  // of the instruction whose run this is

    bool idle() const { return state == IDLE; }
    bool asks(int64_t room) const { return state == ASK && room >= burst; }
    // Returns the beats that were asked for in this cycle.
    int64_t step(const Params &p, bool run, uint64_t run_address, int64_t beats, bool granted, bool &changed) {
        int64_t asked = 0;
        if (state == IDLE) {
            if (run) address = run_address, left = beats, state = MEASURE, changed = true;
        } else if (state == MEASURE) {
            int64_t page = p.page_bytes / p.beat_bytes, longest = std::min<int64_t>(MAX_BURST, page);
            int64_t to_page = page - (int64_t)(address % p.page_bytes) / p.beat_bytes;
            burst = std::min(left, std::min(to_page, longest)), state = ASK, changed = true;
        } else if (granted) {
            asked = burst, address += burst * p.beat_bytes, left -= burst;
            state = left ? MEASURE : IDLE, changed = true;
        }
        return asked;
    }
};

}  // namespace wordline
