// The timing of rtl/load_unit.py.
#pragma once

#include "unit.hpp"

namespace wordline {

struct Load : Unit {
    enum { IDLE, ASK, MOVE, REGISTER, WRITE, FINISH } state = IDLE;
    Reader reader;
    Fifo fifo;
    int64_t room = FIFO_BEATS, count = 0, element = 0, beats = 0, chunks = 0, left = 0, filled = 0;
    uint64_t address = 0;
    int number = 0;
    bool write = false;

    bool ready() const { return state == IDLE; }
    bool done() const { return state == FINISH && !write; }

    // Element bytes and elements in a word, by format.
    static bool format(const Params &p, int64_t element, int64_t &size, int64_t &per_word) {
        size = element == F32 ? 4 : element == BF16 ? 2 : element == INT8 ? 1 : (int64_t)INSTRUCTION_BYTES;
        per_word = element == PROGRAM ? 1 : p.vector_lanes;
        return element == F32 || element == BF16 || element == INT8 || element == PROGRAM;
    }

    bool cycle(const Params &p, const Word *start, bool beat, bool granted, bool taken) {
        bool changed = beat, run = false, read = false, write_next = false;
        int64_t size, per_word;
        bool known = format(p, element, size, per_word);
        switch (state) {
        case IDLE:
            if (start) {
                count = start->get(load::count), element = start->get(load::element);
                address = start->get(load::address), number = start->get(load::reg);
                known = format(p, element, size, per_word);
                beats = known ? (count * size + p.beat_bytes - 1) / p.beat_bytes : 1;
                activity->beats += beats, activity->words += known ? (count + per_word - 1) / per_word : 0;
                state = ASK, changed = true;
            }
            cause = SETUP;
            break;
        case ASK:
            cause = SETUP, changed = true;
            left = count, chunks = 0, filled = 0;
            run = beats != 0, reader.activity = activity;
            if (beats == 0) state = FINISH;
            else if (reader.idle()) state = known ? MOVE : REGISTER;
            break;
        case MOVE:
            cause = WORK;
            if (chunks == 0 && left != 0) {
                read = true;
                if (fifo.ready) chunks = std::max<int64_t>(1, p.beat_bytes / (size * per_word)), changed = true;
                else cause = DATA;
            } else {
                changed = true;
                int64_t elements = std::max<int64_t>(1, std::min(per_word, p.beat_bytes / size));
                int64_t pieces = std::max<int64_t>(1, per_word * size / p.beat_bytes);
                bool program = element == PROGRAM, end = filled == pieces - 1;
                if (left) chunks--;
                left = program ? left - end : std::max<int64_t>(0, left - elements);
                filled = end ? 0 : filled + 1, write_next = end;
                if (end && left == 0) state = FINISH;
            }
            break;
        case REGISTER:
            read = true, cause = DATA;
            if (fifo.ready) state = WRITE, changed = true;
            break;
        case WRITE:
            cause = SETUP;
            if (taken) state = FINISH, changed = true;
            break;
        case FINISH:
            cause = SETUP;
            if (!write) state = IDLE;
            changed = true;
            break;
        }
        write = write_next;
        bool left_fifo = read && fifo.ready;
        changed |= fifo.step(beat, read);
        int64_t asked = reader.step(p, run, address / p.beat_bytes * p.beat_bytes, beats, granted, changed);
        room += left_fifo - asked;
        return changed;
    }
};

}  // namespace wordline
