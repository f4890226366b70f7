// The Verilated accelerator behind a C interface, with its DRAM and its run loop.
//
// DRAM is a flat buffer that the caller owns. Reads answer LATENCY cycles after their address, then a
// beat a cycle, in order per ID; writes are applied when their data arrives. With stalls above zero every
// channel hesitates at random, and reads of different IDs are answered in random order.

#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>
#include <vector>

#include "Vaccelerator.h"
#include "verilated.h"
#ifdef WITH_TRACE
#include "verilated_vcd_c.h"
#endif

namespace {

constexpr int UNITS = 6;
constexpr int BEAT = DATA_BITS / 8;

struct Burst {
    uint64_t address;
    uint32_t left;
    uint64_t ready;
    uint32_t id;
};

struct Event {
    uint64_t start, end;
    uint32_t unit, index;
};

template <typename T> uint8_t *bytes(T &port) { return reinterpret_cast<uint8_t *>(&port); }

struct Machine {
    std::unique_ptr<VerilatedContext> context{new VerilatedContext};
    std::unique_ptr<Vaccelerator> top;
    uint8_t *memory = nullptr;
    uint64_t size = 0, latency = 20, now = 0, random = 1;
    double stalls = 0;
    bool bad_address = false;
    std::deque<Burst> reads, writes;
    std::deque<std::vector<uint8_t>> data;  // write beats that wait for their address
    std::deque<uint64_t> answers;
    std::vector<Event> events;
    bool record = false;
    uint64_t started[UNITS] = {};
    uint32_t count[UNITS] = {};
#ifdef WITH_TRACE
    std::unique_ptr<VerilatedVcdC> wave;
    uint64_t wave_from = 0, wave_to = 0;
#endif

    bool stall() {
        if (stalls <= 0) return false;
        random ^= random << 13, random ^= random >> 7, random ^= random << 17;
        return (random >> 11) * 0x1p-53 < stalls;
    }

    void dump(int phase) {
#ifdef WITH_TRACE
        if (wave && now >= wave_from && now < wave_to) wave->dump(10 * now + 5 * phase);
        if (wave && now == wave_to) wave->close(), wave.reset();
#endif
        (void)phase;
    }

    // One clock cycle: offer inputs, see what is taken, clock, update.
    void cycle() {
        Vaccelerator &t = *top;
        t.m_axi_arready = !stall();
        t.m_axi_awready = !stall();
        t.m_axi_wready = !stall();
        bool hold_read = t.m_axi_rvalid;  // once offered, an answer stays until it is taken
        if (!hold_read && !reads.empty() && !stall()) {
            size_t pick = 0;
            if (stalls > 0)
                for (size_t i = 1; i < reads.size(); i++) {
                    bool first_of_id = true;
                    for (size_t j = 0; j < i; j++) first_of_id &= reads[j].id != reads[i].id;
                    if (first_of_id && stall()) pick = i;
                }
            Burst &burst = reads[pick];
            if (now >= burst.ready) {
                if (pick) std::swap(reads[0], reads[pick]);
                Burst &head = reads.front();
                t.m_axi_rvalid = 1;
                t.m_axi_rid = head.id;
                t.m_axi_rlast = head.left == 1;
                bool inside = head.address + BEAT <= size;
                t.m_axi_rresp = inside ? 0 : 2;
                if (inside) std::memcpy(bytes(t.m_axi_rdata), memory + head.address, BEAT);
            }
        }
        if (!t.m_axi_bvalid && !answers.empty() && now >= answers.front() && !stall()) {
            t.m_axi_bvalid = 1;
            t.m_axi_bresp = bad_address ? 2 : 0;
        }
        t.clk = 0;
        t.eval();
        dump(0);
        bool ar = t.m_axi_arvalid && t.m_axi_arready, aw = t.m_axi_awvalid && t.m_axi_awready;
        bool w = t.m_axi_wvalid && t.m_axi_wready, r = t.m_axi_rvalid && t.m_axi_rready;
        bool b = t.m_axi_bvalid && t.m_axi_bready;
        if (ar) reads.push_back({t.m_axi_araddr, t.m_axi_arlen + 1u, now + latency, t.m_axi_arid});
        if (aw) writes.push_back({t.m_axi_awaddr, 1, 0, 0});
        if (w) {
            std::vector<uint8_t> beat(BEAT + (BEAT + 7) / 8);
            std::memcpy(beat.data(), bytes(t.m_axi_wdata), BEAT);
            std::memcpy(beat.data() + BEAT, bytes(t.m_axi_wstrb), (BEAT + 7) / 8);
            data.push_back(std::move(beat));
        }
        while (!writes.empty() && !data.empty()) {  // our master writes single beats
            uint64_t address = writes.front().address;
            const auto &beat = data.front();
            if (address + BEAT > size) bad_address = true;
            else
                for (int i = 0; i < BEAT; i++)
                    if (beat[BEAT + i / 8] >> (i % 8) & 1) memory[address + i] = beat[i];
            writes.pop_front(), data.pop_front();
            answers.push_back(now + latency);
        }
        if (record) {
            for (int u = 0; u < UNITS; u++) {
                if (t.trace_start >> u & 1) started[u] = now;
                if (t.trace_done >> u & 1) events.push_back({started[u], now, (uint32_t)u, count[u]++});
            }
        }
        t.clk = 1;
        t.eval();
        dump(1);
        if (r) {
            t.m_axi_rvalid = 0;
            Burst &head = reads.front();
            head.address += BEAT;
            if (--head.left == 0) reads.pop_front();
        }
        if (b) t.m_axi_bvalid = 0, answers.pop_front();
        now++;
    }
};

}  // namespace

extern "C" {

Machine *machine_new(uint8_t *memory, uint64_t size, uint64_t latency) {
    auto *m = new Machine;
    m->context->randReset(0);
    m->top.reset(new Vaccelerator{m->context.get()});
    m->memory = memory, m->size = size, m->latency = latency;
    m->top->rst = 1;
    for (int i = 0; i < 4; i++) m->cycle();
    m->top->rst = 0;
    m->now = 0;
    return m;
}

void machine_free(Machine *m) {
#ifdef WITH_TRACE
    if (m->wave) m->wave->close();
#endif
    m->top->final();
    delete m;
}

void machine_stalls(Machine *m, double stalls, uint64_t seed) {
    m->stalls = stalls;
    m->random = seed * 0x9E3779B97F4A7C15u + 1;
}

void machine_write(Machine *m, uint32_t address, uint32_t value) {
    auto &t = *m->top;
    t.s_axi_control_awaddr = address, t.s_axi_control_awvalid = 1;
    t.s_axi_control_wdata = value, t.s_axi_control_wstrb = 15, t.s_axi_control_wvalid = 1;
    t.s_axi_control_bready = 1;
    bool taken = false;
    while (!taken) {
        t.eval();
        taken = t.s_axi_control_awready && t.s_axi_control_wready;
        m->cycle();
    }
    t.s_axi_control_awvalid = t.s_axi_control_wvalid = 0;
    while (!t.s_axi_control_bvalid) m->cycle();
    m->cycle();
}

uint32_t machine_read(Machine *m, uint32_t address) {
    auto &t = *m->top;
    t.s_axi_control_araddr = address, t.s_axi_control_arvalid = 1, t.s_axi_control_rready = 1;
    bool taken = false;
    while (!taken) {
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

// Runs until the program has ended (1) or for `cycles` cycles (0).
int machine_run(Machine *m, uint64_t cycles) {
    for (uint64_t i = 0; i < cycles; i++) {
        m->cycle();
        if (m->top->irq) return 1;
    }
    return 0;
}

uint64_t machine_now(Machine *m) { return m->now; }

void machine_record(Machine *m, int on) {
    m->record = on;
    m->events.clear();
    std::memset(m->count, 0, sizeof m->count);
}

uint64_t machine_events(Machine *m, Event *out) {
    if (out) std::memcpy(out, m->events.data(), m->events.size() * sizeof(Event));
    return m->events.size();
}

// Returns 0 if this build cannot write waveforms.
int machine_wave(Machine *m, const char *path, uint64_t from, uint64_t to) {
#ifdef WITH_TRACE
    m->context->traceEverOn(true);
    m->wave.reset(new VerilatedVcdC);
    m->top->trace(m->wave.get(), 99);
    m->wave->open(path);
    m->wave_from = m->now + from, m->wave_to = m->now + to;
    return 1;
#else
    (void)m, (void)path, (void)from, (void)to;
    return 0;
#endif
}
}
