// Drives a column of processing elements (wordline.pe.family.CompleteColumn) with steps from memory, and watches it.
//
// Ports are copied as bytes: Verilator keeps them little-endian, in the narrowest integer or in 32-bit words. It writes
// the second underscore of a name as ___05F.

#include <cstdint>
#include <cstring>
#include <memory>

#include "Vcolumn.h"
#include "verilated.h"

#define OF(stream, part) stream##___05F##part

namespace {

struct Dice {  // splitmix64
    uint64_t state;
    bool below(double p) {
        if (p <= 0) return false;
        uint64_t z = state += 0x9e3779b97f4a7c15ull;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
        z = (z ^ z >> 27) * 0x94d049bb133111ebull;
        return double((z ^ z >> 31) >> 11) * 0x1p-53 < p;
    }
};

struct Column {
    VerilatedContext context;
    Vcolumn top{&context};

    void clock() {
        top.clk = 1, top.eval();
        top.clk = 0, top.eval();
    }
};

enum { DONE, TOO_MANY, TOO_FEW, NOT_BOTH, CHANGED };  // what went wrong

}  // namespace

extern "C" {

void *column_new() { return new Column; }
void column_free(void *column) { delete static_cast<Column *>(column); }
int64_t column_bytes(int port) {
    return port == 0 ? sizeof(Vcolumn::OF(acts, payload)) : port == 1 ? sizeof(Vcolumn::OF(weights, payload)) : sizeof(Vcolumn::OF(dots, payload));
}

// Resets the column and runs `steps` steps through it. hold: the probability that a stream holds back in a cycle.
// Out: the cycles in which steps were taken and dot products came out, and these.
int column_run(void *column, int64_t steps, const uint8_t *acts, const uint8_t *weights, int64_t groups,
               const double hold[3], uint64_t seed, int64_t *taken, int64_t *came, uint8_t *dots, int64_t patience) {
    Column &c = *static_cast<Column *>(column);
    Vcolumn &t = c.top;
    Dice dice{seed};
    t.rst = 1, t.OF(acts, valid) = t.OF(weights, valid) = t.OF(dots, ready) = 0;
    c.clock(), c.clock();
    t.rst = 0;
    bool offered[2] = {false, false}, held = false;
    uint8_t before[sizeof t.OF(dots, payload)];
    int64_t step = 0, group = 0, last = 0;
    for (int64_t now = 0; group < groups || now < last + 20; now++) {
        if (now > last + patience) return TOO_FEW;
        for (bool &offer : offered) offer |= !dice.below(hold[&offer - offered]);
        t.OF(acts, valid) = offered[0] && step < steps, t.OF(weights, valid) = offered[1] && step < steps;
        if (step < steps) {
            std::memcpy(&t.OF(acts, payload), acts + step * sizeof t.OF(acts, payload), sizeof t.OF(acts, payload));
            std::memcpy(&t.OF(weights, payload), weights + step * sizeof t.OF(weights, payload), sizeof t.OF(weights, payload));
        }
        t.OF(dots, ready) = !dice.below(hold[2]);
        t.eval();
        bool moved = t.OF(acts, valid) && t.OF(acts, ready);
        if (moved != (t.OF(weights, valid) && t.OF(weights, ready))) return NOT_BOTH;
        if (held && (!t.OF(dots, valid) || std::memcmp(before, &t.OF(dots, payload), sizeof before))) return CHANGED;
        held = t.OF(dots, valid) && !t.OF(dots, ready);
        std::memcpy(before, &t.OF(dots, payload), sizeof before);
        if (t.OF(dots, valid) && t.OF(dots, ready)) {
            if (group == groups) return TOO_MANY;
            std::memcpy(dots + group * sizeof t.OF(dots, payload), &t.OF(dots, payload), sizeof t.OF(dots, payload));
            came[group++] = last = now;
        }
        if (moved) taken[step++] = last = now, offered[0] = offered[1] = false;
        c.clock();
    }
    return DONE;
}

}
