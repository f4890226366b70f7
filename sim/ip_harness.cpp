// The Verilated IP behind a C interface: its AXI4-Lite port, and a memory at each of its AXI4 ports.
//
// The ports are independent: each has its own queue and its own stalls, and DRAM is one flat buffer that the caller
// owns, which the IP sees at physical address `base`. TOP, TOP_HEADER, BEAT (bytes) and EACH_PORT(DO), which does
// DO(prefix, number) for each port, are from sim/ip_machine.py.

#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>
#include <type_traits>
#include <vector>

#include TOP_HEADER
#include "bus.hpp"
#include "verilated.h"

namespace {

constexpr int SLVERR = 2;

template <typename T> uint8_t *bytes(T &port) { return reinterpret_cast<uint8_t *>(&port); }

// What one AXI port's pins are, by reference; PINS makes it of a port's prefix.
template <typename Data, typename Strobe> struct Pins {
    const CData &arvalid, &arlen, &arid, &awvalid, &awlen, &wvalid, &wlast, &rready, &bready;
    const QData &araddr, &awaddr;
    const Data &wdata;
    const Strobe &wstrb;
    CData &arready, &awready, &wready, &rvalid, &rid, &rlast, &rresp, &bvalid, &bid, &bresp;
    Data &rdata;
};

struct Write {
    uint64_t address;
    uint32_t left;
};

struct Memory {
    uint8_t *bytes;
    uint64_t base, size;

    uint8_t *at(uint64_t address) const {
        bool inside = address >= base && address - base + BEAT <= size;
        return inside ? bytes + (address - base) : nullptr;
    }
};

struct Port {
    wordline::Bus bus;
    std::deque<Write> writes;
    std::deque<std::vector<uint8_t>> data;  // write beats, then strobes, that wait for their address
    bool bad = false, broken = false;       // a write missed the memory; a rule of AXI4 was broken
    bool took_read = false, took_answer = false;

    explicit Port(int64_t latency) : bus(latency, BEAT, 1, nullptr) {}

    void restart() {
        bus.restart(), writes.clear(), data.clear();
        bad = took_read = took_answer = false;
    }

    // Before the clock: inputs of this cycle.
    template <typename P> void offer(P p, int64_t now, const Memory &memory) {
        p.arready = bus.ready(wordline::AR, now);
        p.awready = bus.ready(wordline::AW, now);
        p.wready = bus.ready(wordline::W, now);
        wordline::Beat beat;
        if (!p.rvalid && bus.offer(now, beat)) {
            const uint8_t *from = memory.at(beat.address);
            p.rvalid = 1, p.rid = beat.id, p.rlast = beat.last, p.rresp = from ? 0 : SLVERR;
            if (from) std::memcpy(bytes(p.rdata), from, BEAT);
        }
        if (!p.bvalid && bus.answer_due(now)) p.bvalid = 1, p.bid = 0, p.bresp = bus.answer_bad() ? SLVERR : 0;
    }

    // What is taken at the clock.
    template <typename P> void take(P p, int64_t now, const Memory &memory) {
        took_read = p.rvalid && p.rready, took_answer = p.bvalid && p.bready;
        if (p.arvalid && p.arready) {
            broken |= p.araddr / 4096 != (p.araddr + (p.arlen + 1ull) * BEAT - 1) / 4096;
            bus.read(now, p.araddr, p.arlen + 1u, p.arid);
        }
        if (p.awvalid && p.awready) {
            broken |= p.awaddr / 4096 != (p.awaddr + (p.awlen + 1ull) * BEAT - 1) / 4096;
            writes.push_back({p.awaddr, p.awlen + 1u});
        }
        if (p.wvalid && p.wready) {
            std::vector<uint8_t> beat(BEAT + BEAT / 8 + 1);
            std::memcpy(beat.data(), &p.wdata, BEAT);
            std::memcpy(beat.data() + BEAT, &p.wstrb, BEAT / 8);
            beat.back() = p.wlast;
            data.push_back(std::move(beat));
        }
        for (; !writes.empty() && !data.empty(); data.pop_front()) {
            Write &burst = writes.front();
            const std::vector<uint8_t> &beat = data.front();
            uint8_t *to = memory.at(burst.address);
            bad |= !to;
            for (int i = 0; to && i < BEAT; i++)
                if (beat[BEAT + i / 8] >> i % 8 & 1) to[i] = beat[i];
            bool last = --burst.left == 0;
            broken |= beat.back() != last;
            bus.write(now, burst.address, last, bad);
            burst.address += BEAT;
            if (last) bad = false, writes.pop_front();
        }
    }

    // After the clock.
    template <typename P> void update(P p) {
        if (took_read) p.rvalid = 0;
        if (took_answer) p.bvalid = 0, bus.answered();
    }
};

#define PIN(prefix, name) t.prefix##name
#define PINS(prefix)                                                                                                  \
    Pins<std::remove_reference_t<decltype(PIN(prefix, wdata))>, std::remove_reference_t<decltype(PIN(prefix, wstrb))>> { \
        PIN(prefix, arvalid), PIN(prefix, arlen), PIN(prefix, arid), PIN(prefix, awvalid), PIN(prefix, awlen),         \
        PIN(prefix, wvalid), PIN(prefix, wlast), PIN(prefix, rready), PIN(prefix, bready), PIN(prefix, araddr),        \
        PIN(prefix, awaddr), PIN(prefix, wdata), PIN(prefix, wstrb), PIN(prefix, arready), PIN(prefix, awready),       \
        PIN(prefix, wready), PIN(prefix, rvalid), PIN(prefix, rid), PIN(prefix, rlast), PIN(prefix, rresp),            \
        PIN(prefix, bvalid), PIN(prefix, bid), PIN(prefix, bresp), PIN(prefix, rdata)                                  \
    }

struct Ip {
    std::unique_ptr<VerilatedContext> context{new VerilatedContext};
    std::unique_ptr<TOP> top;
    Memory memory;
    std::vector<Port> ports;
    int64_t now = 0;

    void cycle() {
        TOP &t = *top;
#define OFFER(prefix, i) ports[i].offer(PINS(prefix), now, memory);
        EACH_PORT(OFFER)
        t.ap_clk = 0;
        t.eval();
#define TAKE(prefix, i) ports[i].take(PINS(prefix), now, memory);
        EACH_PORT(TAKE)
        t.ap_clk = 1;
        t.eval();
#define UPDATE(prefix, i) ports[i].update(PINS(prefix));
        EACH_PORT(UPDATE)
        now++;
    }
};

}  // namespace

extern "C" {

// A reset at any time; the memory forgets what is under way.
void ip_reset(Ip *m) {
    TOP &t = *m->top;
    t.ap_rst_n = 0;
    for (int i = 0; i < 8; i++) {
#define FORGET(prefix, i) m->ports[i].restart(), PIN(prefix, rvalid) = 0, PIN(prefix, bvalid) = 0;
        EACH_PORT(FORGET)
        m->cycle();
    }
    t.ap_rst_n = 1;
    for (int i = 0; i < 4; i++) m->cycle();
}

Ip *ip_new(uint8_t *memory, uint64_t base, uint64_t size, int64_t latency) {
    auto *m = new Ip;
    m->context->randReset(0);
    m->top.reset(new TOP{m->context.get()});
    m->memory = {memory, base, size};
#define ADD(prefix, i) m->ports.emplace_back(latency);
    EACH_PORT(ADD)
    ip_reset(m);
    return m;
}

void ip_free(Ip *m) {
    m->top->final();
    delete m;
}

// Every channel of every port hesitates with this probability.
void ip_stalls(Ip *m, double probability, uint64_t seed) {
    for (size_t i = 0; i < m->ports.size(); i++) m->ports[i].bus.stalls = {probability, seed * 64 + i};
}

// Whether every burst has stayed within 4 KB and every write's last beat has said so.
int ip_sound(Ip *m) {
    for (const Port &port : m->ports)
        if (port.broken) return 0;
    return 1;
}

void ip_write(Ip *m, uint32_t address, uint32_t value) {
    TOP &t = *m->top;
    t.s_axi_control_awaddr = address, t.s_axi_control_awvalid = 1;
    t.s_axi_control_wdata = value, t.s_axi_control_wstrb = 15, t.s_axi_control_wvalid = 1;
    t.s_axi_control_bready = 1;
    for (bool taken = false; !taken;) {
        t.eval();
        taken = t.s_axi_control_awready && t.s_axi_control_wready;
        m->cycle();
    }
    t.s_axi_control_awvalid = t.s_axi_control_wvalid = 0;
    while (!t.s_axi_control_bvalid) m->cycle();
    m->cycle();
}

uint32_t ip_read(Ip *m, uint32_t address) {
    TOP &t = *m->top;
    t.s_axi_control_araddr = address, t.s_axi_control_arvalid = 1, t.s_axi_control_rready = 1;
    for (bool taken = false; !taken;) {
        t.eval();
        taken = t.s_axi_control_arready;
        m->cycle();
    }
    t.s_axi_control_arvalid = 0;
    while (!t.s_axi_control_rvalid) m->cycle();
    uint32_t value = t.s_axi_control_rdata;
    m->cycle();
    return value;
}

// Lets cycles pass, fewer if the interrupt comes (a reserved word, which Verilator writes so); whether it is there.
int ip_run(Ip *m, uint64_t cycles) {
    while (cycles-- && !m->top->__SYM__interrupt) m->cycle();
    return m->top->__SYM__interrupt;
}
}
