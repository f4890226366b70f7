// The timing of rtl/vector_unit.py.
#pragma once

#include "bus.hpp"
#include "unit.hpp"

namespace wordline {

int64_t ceil_log2(int64_t x) {
    int n = 0;
    while ((1ll << n) < x) n++;
    return n;
}

struct Vector : Unit {
    int64_t end = -1;  // cycle of `done`
    int64_t work_from = 0, work_to = 0;
    bool busy = false;

    bool ready() const { return !busy; }
    bool done(int64_t now) const { return busy && now == end; }

    // rtl.vector_unit.vector_depth
    static int64_t depth(const Params &p, const Word *start) {
        uint64_t function = start->get(vector::function);
        bool multiplies = start->get(vector::multiply) != NO_FACTOR, adds = start->get(vector::addend) != NO_FACTOR;
        return 1 + multiplies * p.multiply_latency + adds * p.add_latency
               + (function == NO_FUNCTION ? p.plain_latency : function == INT ? p.int_latency : p.special_latency);
    }

    // rtl.vector_unit.vector_cycles
    bool cycle(const Params &p, int64_t now, const Word *start) {
        if (done(now)) {
            busy = false, cause = SETUP;
            return true;
        }
        cause = now >= work_from && now < work_to ? WORK : now < work_from ? SETUP : DRAIN_WAIT;
        if (!start || busy) return false;
        int64_t length = start->get(vector::len), pad = start->get(vector::pad) & 0xFFFF, lanes = p.vector_lanes;
        int64_t words = (std::max(length, pad) + lanes - 1) / lanes, step = p.lanes / lanes;
        if (start->get(vector::destination) == ACT_BUFFER) words = (words + step - 1) / step * step;
        words *= start->get(vector::outer) + (start->get(vector::pad) >> 16 & 0xFF) + 1;
        int64_t reduction = start->get(vector::reduction), reduce = 0, interval = 1;
        if (reduction == SUM) {
            interval = p.sum_interval;
            int64_t levels = ceil_log2(std::max<int64_t>(1, std::min(words, p.sum_words)));
            reduce = 3 + p.sum_settle + ceil_log2(lanes) * p.sum_settle;
            for (int64_t k = 0; k < levels; k++) reduce += (1ll << k) + p.sum_settle;
            activity->folds += (1ll << levels) - 1;
        } else if (reduction != NO_REDUCTION) {
            reduce = ceil_log2(lanes) + 3 + (reduction == ARGMAX);
        }
        activity->words += words;
        busy = true;
        work_from = now + 1 + p.vector_prepare, work_to = work_from + words * interval;
        end = now + p.vector_prepare + std::max<int64_t>(words, 1) * interval + depth(p, start) + 1 + reduce;
        cause = SETUP;
        return true;
    }

    int64_t wake(int64_t now) const {
        if (!busy) return NEVER;
        return now < work_from ? work_from : now < work_to ? work_to : end;
    }
};

}  // namespace wordline
