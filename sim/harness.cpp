// The Verilated accelerator behind a C interface, with its DRAM and its run loop.
//
// DRAM is a flat buffer that the caller owns; bus.hpp says in which cycle it answers. A write is applied when
// address and data are there. Several AXI ports are driven alike, as one: each brings its slice of every beat.
//
// The accelerator sits in a module `bench` (sim/rtl.py) that registers every input: what is set before an edge is there
// in the cycle after it. So one evaluation a cycle is enough, at the edge, with registers and inputs new at once;
// otherwise what depends on an input would be computed when it changes and again after the edge.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>
#include <vector>

#include "Vbench.h"
#include "bus.hpp"
#include "verilated.h"
#ifdef WITH_TRACE
#include "verilated_vcd_c.h"
#endif

namespace {

constexpr int UNITS = 6;
constexpr int BEAT = DATA_BITS / 8, SLICE = BEAT / PORTS, STROBES = (SLICE + 7) / 8;
constexpr int SLVERR = 2;

struct Write {
    uint64_t address;
    uint32_t left;
};

struct Event {
    int64_t start, end;  // cycles since the start of the program
    uint32_t unit, index;
};

// A signal of a port; FIRST_PORT and EACH_PORT(DO), which does DO(prefix, number) for each port, are from sim/rtl.py.
#define PASTE(a, b) a##b
#define SIGNAL(prefix, name) PASTE(prefix, name)
#define AXI(name) SIGNAL(FIRST_PORT, name)
#define SET(name, value) do { const auto v = (value); EACH_PORT(SET_ONE_##name) } while (0)
#define SET_ONE_arready(prefix, i) t.SIGNAL(prefix, arready) = v;
#define SET_ONE_awready(prefix, i) t.SIGNAL(prefix, awready) = v;
#define SET_ONE_wready(prefix, i) t.SIGNAL(prefix, wready) = v;
#define SET_ONE_rvalid(prefix, i) t.SIGNAL(prefix, rvalid) = v;
#define SET_ONE_rid(prefix, i) t.SIGNAL(prefix, rid) = v;
#define SET_ONE_rlast(prefix, i) t.SIGNAL(prefix, rlast) = v;
#define SET_ONE_rresp(prefix, i) t.SIGNAL(prefix, rresp) = v;
#define SET_ONE_rdata(prefix, i) std::memcpy(bytes(t.SIGNAL(prefix, rdata)), v + i * SLICE, SLICE);
#define SET_ONE_bvalid(prefix, i) t.SIGNAL(prefix, bvalid) = v;
#define SET_ONE_bresp(prefix, i) t.SIGNAL(prefix, bresp) = v;

template <typename T> uint8_t *bytes(T &port) { return reinterpret_cast<uint8_t *>(&port); }

struct Machine {
    std::unique_ptr<VerilatedContext> context{new VerilatedContext};
    std::unique_ptr<Vbench> top;
    uint8_t *memory = nullptr;
    uint64_t size = 0;
    int64_t now = 0;
    std::unique_ptr<wordline::Bus> bus;
    bool bad_write = false;
    std::deque<Write> writes;
    std::deque<std::vector<uint8_t>> data;  // write beats that wait for their address
    std::vector<Event> events;
    bool record = false, lockstep = true;
    int64_t origin = 0;  // the program's cycle 0
    std::deque<int64_t> started[UNITS];
    uint32_t count[UNITS] = {};
#ifdef WITH_TRACE
    std::unique_ptr<VerilatedVcdC> wave;
    int64_t wave_from = 0, wave_to = 0;
#endif

    int64_t time() const { return now - origin; }  // in cycles of the program

    // The waveform of cycle `at`: its first half, or its second, which begins with the edge.
    void dump(int64_t at, int half) {
#ifdef WITH_TRACE
        if (wave && at >= wave_from && at < wave_to) wave->dump((uint64_t)(10 * (at - wave_from) + 5 * half));
#endif
        (void)at, (void)half;
    }

    void offer_read() {
        Vbench &t = *top;
        wordline::Beat beat;
        if (t.AXI(rvalid) || !bus->offer(time(), beat)) return;  // once offered, a beat stays
        bool inside = beat.address + BEAT <= size;
        SET(rvalid, 1);
        SET(rid, beat.id);
        SET(rlast, beat.last);
        SET(rresp, inside ? 0 : SLVERR);
        if (inside) SET(rdata, memory + beat.address);
    }

    void apply_writes() {
        for (; !writes.empty() && !data.empty(); data.pop_front()) {
            Write &burst = writes.front();
            const uint8_t *beat = data.front().data(), *strobe = beat + BEAT;  // of the ports one behind the other
            bool inside = burst.address + BEAT <= size;
            bad_write |= !inside;
            for (int i = 0; inside && i < BEAT; i++)
                if (strobe[i / SLICE * STROBES + i % SLICE / 8] >> (i % SLICE % 8) & 1)
                    memory[burst.address + i] = beat[i];
            bool last = --burst.left == 0;
            bus->write(time(), burst.address, last, bad_write);
            burst.address += BEAT;
            if (last) bad_write = false, writes.pop_front();
        }
    }

    void record_events() {
        for (int u = 0; u < UNITS; u++) {
            if (top->trace_start >> u & 1) started[u].push_back(time());
            if (top->trace_done >> u & 1) {
                events.push_back({started[u].front(), time(), (uint32_t)u, count[u]++});
                started[u].pop_front();
            }
        }
    }

    // Ports that are treated alike must behave alike.
    void check_lockstep() {
        Vbench &t = *top;
#define COMPARE(prefix, i)                                                                                     \
    lockstep &= t.SIGNAL(prefix, arvalid) == t.AXI(arvalid) && t.SIGNAL(prefix, araddr) == t.AXI(araddr) &&    \
                t.SIGNAL(prefix, arlen) == t.AXI(arlen) && t.SIGNAL(prefix, awvalid) == t.AXI(awvalid) &&      \
                t.SIGNAL(prefix, awaddr) == t.AXI(awaddr) && t.SIGNAL(prefix, wvalid) == t.AXI(wvalid) &&      \
                t.SIGNAL(prefix, rready) == t.AXI(rready) && t.SIGNAL(prefix, bready) == t.AXI(bready);
        EACH_PORT(COMPARE)
    }

    // What the memory says in cycle `now`.
    void offer() {
        Vbench &t = *top;
        SET(arready, bus->ready(wordline::AR, time()));
        SET(awready, bus->ready(wordline::AW, time()));
        SET(wready, bus->ready(wordline::W, time()));
        offer_read();
        if (!t.AXI(bvalid) && bus->answer_due(time())) {
            SET(bvalid, 1);
            SET(bresp, bus->answer_bad() ? SLVERR : 0);
        }
    }

    // One clock cycle: see what is taken, offer what the next cycle gets, clock.
    void cycle() {
        Vbench &t = *top;
        dump(now, 0);
        check_lockstep();
        bool ar = t.AXI(arvalid) && t.AXI(arready), aw = t.AXI(awvalid) && t.AXI(awready);
        bool w = t.AXI(wvalid) && t.AXI(wready), r = t.AXI(rvalid) && t.AXI(rready);
        bool b = t.AXI(bvalid) && t.AXI(bready);
        if (ar) bus->read(time(), (uint64_t)t.AXI(araddr) * PORTS, t.AXI(arlen) + 1u, t.AXI(arid));
        if (aw) writes.push_back({(uint64_t)t.AXI(awaddr) * PORTS, t.AXI(awlen) + 1u});
        if (w) {
            std::vector<uint8_t> beat(BEAT + PORTS * STROBES);
#define GATHER(prefix, i)                                                                        \
    std::memcpy(beat.data() + i * SLICE, bytes(t.SIGNAL(prefix, wdata)), SLICE);                 \
    std::memcpy(beat.data() + BEAT + i * STROBES, bytes(t.SIGNAL(prefix, wstrb)), STROBES);
            EACH_PORT(GATHER)
            data.push_back(std::move(beat));
        }
        apply_writes();
        if (record) record_events();
        if (r) SET(rvalid, 0);
        if (b) {
            SET(bvalid, 0);
            bus->answered();
        }
        const int64_t ends = now++;
        offer();
        t.clk = 1;
        t.eval();
        dump(ends, 1);
        t.clk = 0;
        t.eval();
    }
};

}  // namespace

extern "C" {

// Also forgets what is under way on the bus.
void machine_reset(Machine *m) {
    m->bus->restart(), m->writes.clear(), m->data.clear();
    auto &t = *m->top;
    SET(rvalid, 0);
    SET(bvalid, 0);
    m->top->rst = 1;
    for (int i = 0; i < 4; i++) m->cycle();
    m->top->rst = 0;
    m->cycle();
}

Machine *machine_new(uint8_t *memory, uint64_t size) {
    auto *m = new Machine;
    m->context->randReset(0);
#ifdef WITH_TRACE
    m->context->traceEverOn(true);
#endif
    m->top.reset(new Vbench{m->context.get()});
    m->memory = memory, m->size = size;
    m->bus.reset(new wordline::Bus{1, BEAT, PORTS, nullptr});
    m->top->clk = 0;
    m->top->eval();
    machine_reset(m);
    return m;
}

void machine_free(Machine *m) {
    m->top->final();
    delete m;
}

// Whether all AXI ports have done the same in every cycle.
int machine_lockstep(Machine *m) { return m->lockstep; }

// Memory timing of the programs started next.
void machine_dram(Machine *m, int64_t latency, const wordline::DramParams *dram) {
    m->bus.reset(new wordline::Bus{latency, BEAT, PORTS, dram});
}

void machine_dram_counters(Machine *m, int64_t cycle, wordline::DramCounters *out) {
    *out = m->bus->dram_counters(cycle);
}

void machine_stalls(Machine *m, double stalls, uint64_t seed) {
    m->bus->stalls = {stalls, seed};
}

void machine_write(Machine *m, uint32_t address, uint32_t value) {
    auto &t = *m->top;
    t.s_axi_control_awaddr = address, t.s_axi_control_awvalid = 1;
    t.s_axi_control_wdata = value, t.s_axi_control_wstrb = 15, t.s_axi_control_wvalid = 1;
    t.s_axi_control_bready = 1;
    m->cycle();
    for (bool taken = false; !taken; m->cycle()) {
        taken = t.s_axi_control_awready && t.s_axi_control_wready;
        if (taken) t.s_axi_control_awvalid = t.s_axi_control_wvalid = 0;
    }
    while (!t.s_axi_control_bvalid) m->cycle();
    m->cycle();
}

uint32_t machine_read(Machine *m, uint32_t address) {
    auto &t = *m->top;
    t.s_axi_control_araddr = address, t.s_axi_control_arvalid = 1, t.s_axi_control_rready = 1;
    m->cycle();
    for (bool taken = false; !taken; m->cycle()) {
        taken = t.s_axi_control_arready;
        if (taken) t.s_axi_control_arvalid = 0;
    }
    while (!t.s_axi_control_rvalid) m->cycle();
    uint32_t value = t.s_axi_control_rdata;
    m->cycle();
    return value;
}

// Starts the program by a write to CONTROL, which is there in the next cycle. The sequencer runs from the second cycle
// after that.
void machine_start(Machine *m, uint32_t control, int record) {
    m->record = record;
    m->events.clear();
    std::fill_n(m->count, UNITS, 0);
    for (auto &queue : m->started) queue.clear();
    m->origin = m->now + 3;
    m->bus->restart();
    machine_write(m, control, 1);
}

// Runs until the program has ended, `cycles` have passed or `seconds` are over; returns cycles run.
uint64_t machine_run(Machine *m, uint64_t cycles, double seconds, int *ended) {
    using clock = std::chrono::steady_clock;
    auto until = clock::now() + std::chrono::duration<double>(seconds);
    uint64_t i = 0;
    *ended = 0;
    while (i < cycles && !*ended) {
        m->cycle(), i++;
        *ended = m->top->irq;
        if (i % 256 == 0 && clock::now() >= until) break;
    }
    return i;
}

uint64_t machine_events(Machine *m, Event *out) {
    if (out) std::memcpy(out, m->events.data(), m->events.size() * sizeof(Event));
    return m->events.size();
}

// Waveform of the cycles `from` to `to` of the program started next; 0 if this build has none.
int machine_wave(Machine *m, const char *path, uint64_t from, uint64_t to) {
#ifdef WITH_TRACE
    m->wave.reset(new VerilatedVcdC);
    m->top->trace(m->wave.get(), 99);
    m->wave->open(path);
    m->wave_from = m->now + 3 + (int64_t)from, m->wave_to = m->now + 3 + (int64_t)to;
    return m->wave->isOpen();
#else
    (void)m, (void)path, (void)from, (void)to;
    return 0;
#endif
}

void machine_wave_end(Machine *m) {
#ifdef WITH_TRACE
    if (m->wave) m->wave->close();
    m->wave.reset();
#endif
    (void)m;
}
}
