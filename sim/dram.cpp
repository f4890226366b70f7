// The DRAM timing model behind a C interface, for sim/dram.py.

#include "dram.hpp"

#include <cstring>

using namespace wordline;

extern "C" {

Dram *dram_new(const DramParams *params, int record) {
    auto *dram = new Dram(*params);
    dram->record = record;
    return dram;
}

void dram_free(Dram *dram) { delete dram; }

void dram_access(Dram *dram, uint64_t count, const int64_t *arrival, const uint64_t *address, const uint8_t *write,
                 int64_t *done) {
    for (uint64_t i = 0; i < count; i++) done[i] = dram->access(arrival[i], address[i], write[i]);
}

void dram_settle(Dram *dram, int64_t cycle) { dram->settle(cycle); }

void dram_counters(const Dram *dram, DramCounters *out) { *out = dram->counters; }

uint64_t dram_trace(const Dram *dram, DramCommand *out) {
    if (out && !dram->trace.empty()) std::memcpy(out, dram->trace.data(), dram->trace.size() * sizeof(DramCommand));
    return dram->trace.size();
}
}
