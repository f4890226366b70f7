// When every instruction of a Program starts and ends on the accelerator, to the cycle.
//
// Each unit is the timing of a file of rtl/, in a header of the same name: the same states, counters and queues,
// without the data. Here are dispatch, semaphores, sequencer and the arbiter. Cycles in which nothing can change (a vector
// instruction at work, a burst on its way) are jumped over. Every cycle of every unit is booked under a cause, so the
// causes of a unit add up to the whole run.
//
// A unit's method `cycle` sees the registers of the others as they were before the clock edge: first all
// outputs are formed (who is ready, done, granted), then all units step. It returns whether anything changed.

#include <cstdint>
#include <cstring>
#include <deque>
#include <string>
#include <unordered_map>
#include <vector>

#include "bus.hpp"
#include "load_unit.hpp"
#include "matmul_unit.hpp"
#include "store_unit.hpp"
#include "stream_unit.hpp"
#include "vector_unit.hpp"

namespace {

using namespace wordline;

int64_t signed40(uint64_t value) { return (int64_t)(value << 24) >> 24; }

struct Event {
    int64_t start, end;
    uint32_t unit, index;
};

struct Model {
    Params p;
    Bus bus;
    const Word *program;
    int64_t length;
    const uint8_t *memory;
    uint64_t memory_size;
    std::unordered_map<uint64_t, uint32_t> constants;  // what registers are loaded with where there is no memory
    int64_t program_address;

    Load load_;
    Stream stream_;
    Matmul matmul_;
    Vector vector_;
    Store store_;

    // Dispatch.
    std::deque<Word> queues[UNITS - 1];
    std::deque<uint32_t> signals[UNITS - 1];
    struct Started { int64_t at, number; };
    std::deque<Started> starts[UNITS - 1];
    std::deque<int64_t> numbers[UNITS - 1];  // of the queued instructions in the program
    int64_t counters[UNITS][UNITS] = {};
    uint32_t ended[UNITS] = {};
    int64_t busy[UNITS] = {};
    int64_t causes[UNITS][CAUSES] = {};
    int64_t booted = 0, boot_causes[UNITS][CAUSES] = {};  // as they were when instruction 0 was fetched
    DramCounters boot_dram{};
    std::vector<Event> events;
    bool record;
    std::vector<Activity> activity;  // by number in the program; behind the last, the boot's load
    std::vector<int64_t> spans;      // of the same
    DramCounters seen{};             // commands that are charged to an instruction

    // Sequencer.
    enum { BOOT, LOADING, REGISTERS_STATE, FETCH, READ, RESOLVE, HAND_OUT, EXECUTE, FLUSH, OVER } state = BOOT;
    int64_t registers[REGISTERS] = {}, a = 0, b = 0;
    int64_t pc = 0, index = 0, quiet = 0;
    Word word, resolved;
    std::string error;

    // The arbiter's address channel.
    bool arvalid = false;
    uint32_t arid = 0;
    uint64_t araddr = 0;
    int64_t arlen = 0;
    Activity *aractivity = nullptr;

    int64_t now = 0;

    Model(const Params &params, const DramParams *dram, const Word *words, int64_t n, uint64_t address,
          const uint8_t *mem, uint64_t size, double stalls, uint64_t seed, bool rec)
        : p(params), bus(params.dram_latency, (uint32_t)params.beat_bytes, (uint32_t)params.ports, dram), program(words), length(n),
          memory(mem), memory_size(size), program_address((int64_t)address), record(rec), activity(n + 1), spans(n + 1) {
        bus.stalls = {stalls, seed};
        stream_.room = p.stream_beats, stream_.most = std::min(p.stream_beats, p.stream_window);
    }

    bool granted(int unit, uint64_t wait) const {
        for (int u = 0; u < UNITS; u++)
            if (wait >> u & 1 && counters[u][unit] == 0) return false;
        return true;
    }

    uint32_t memory_word(uint64_t address) const {
        uint32_t value = 0;
        address &= ~3ull;
        const auto constant = constants.find(address);
        if (constant != constants.end()) return constant->second;
        if (memory && address + 4 <= memory_size) std::memcpy(&value, memory + address, 4);
        return value;
    }

    bool idle() const {
        for (int u = 0; u < UNITS - 1; u++)
            if (!queues[u].empty() || !signals[u].empty()) return false;
        return true;
    }

    void put(int number, int64_t value) {
        if (number) registers[number] = signed40((uint64_t)value);
    }

    void execute(bool &jump) {
        int64_t value = signed40(resolved.get(control::value));
        int rd = (int)resolved.get(control::rd);
        jump = false;
        switch (resolved.get(control::operation)) {
        case ADDI: put(rd, a + value); break;
        case ADD: put(rd, a + b); break;
        case SUB: put(rd, a - b); break;
        case SHL: put(rd, (int64_t)((uint64_t)a << (value & 31))); break;
        case SHR: put(rd, a >> (value & 31)); break;
        case ANDI: put(rd, a & value); break;
        case MULI: put(rd, (a & 0xFFFFFF) * (value & 0xFFFF)); break;
        case MIN: put(rd, std::min(a, b)); break;
        case BEQ: jump = a == b; break;
        case BNE: jump = a != b; break;
        case BLT: jump = a < b; break;
        case BGE: jump = a >= b; break;
        default: break;
        }
    }

    // Operands get their registers added.
    void resolve() {
        resolved = word;
        int unit = (int)word.get(any::unit);
        if (unit == CONTROL) {
            a = registers[word.get(control::ra)], b = registers[word.get(control::rb)];
        } else {
            resolved.set(any::long_imm, word.get(any::long_imm) + (uint64_t)registers[word.get(any::long_reg)]);
        }
        for (int i = 0; i < 4; i++)
            resolved.set(any::short_imm[i],
                         word.get(any::short_imm[i]) + (uint64_t)registers[word.get(any::short_reg[i])]);
    }

    // DRAM's commands since the last call are those of an instruction.
    void charge(Activity *a) {
        DramCounters is = bus.dram_so_far();
        a->activates += is.commands[ACT] - seen.commands[ACT];
        a->reads += is.commands[RD] - seen.commands[RD], a->writes += is.commands[WR] - seen.commands[WR];
        seen = is;
    }

    // One cycle; returns whether anything changed.
    bool cycle() {
        bool changed = false;
        // Outputs of registers.
        bool done[UNITS] = {load_.done(), stream_.done(), matmul_.done(), vector_.done(now), store_.done(), false};
        bool ready[UNITS - 1] = {load_.ready(), stream_.ready(), matmul_.ready(), vector_.ready(), store_.ready()};
        bool is_idle = idle(), load_ended = done[LOAD];
        bool has_room[UNITS - 1];
        bool start[UNITS - 1];
        bool was_busy[UNITS] = {};
        for (int u = 0; u < UNITS - 1; u++) {
            has_room[u] = (int)queues[u].size() < QUEUE_DEPTH;
            start[u] = ready[u] && !queues[u].empty() && (int)signals[u].size() < IN_FLIGHT
                       && granted(u, queues[u].front().get(any::wait));
            was_busy[u] = !signals[u].empty();
        }
        Beat beat;
        bool came = bus.offer(now, beat);
        bool arrives[2] = {came && beat.id == 0, came && beat.id == 1};
        bool arready = bus.ready(AR, now), free = !arvalid || arready;
        bool asks[2] = {load_.reader.asks(load_.room), stream_.reader.asks(stream_.space())};
        bool grants[2] = {free && asks[0], free && asks[1] && !asks[0]};
        matmul_.outputs(p, now, stream_.fifo.ready);

        // Semaphores that are taken and given at this edge, applied at its end.
        struct Change { int from, to, by; };
        static thread_local std::vector<Change> changes;
        changes.clear();
        Word words[UNITS - 1];
        for (int u = 0; u < UNITS - 1; u++) {
            if (!start[u]) continue;
            words[u] = queues[u].front();
            for (int from = 0; from < UNITS; from++)
                if (words[u].get(any::wait) >> from & 1) changes.push_back({from, u, -1});
            changed = true;
        }
        for (int u = 0; u < UNITS - 1; u++)
            if (done[u])
                for (int to = 0; to < UNITS; to++)
                    if (signals[u].front() >> to & 1) changes.push_back({u, to, 1});

        // Bus addresses.
        if (arvalid && arready) {
            bus.read(now, araddr, (uint32_t)arlen, arid), changed = true;
            charge(aractivity);
        }
        if (free) {
            arvalid = asks[0] || asks[1];
            const Reader &reader = asks[0] ? load_.reader : stream_.reader;
            if (arvalid) {
                arid = !asks[0], araddr = reader.address, arlen = reader.burst, aractivity = reader.activity;
                changed = true;
            }
        }
        if (came) changed = true;

        // Sequencer; `own`: it writes a register in this cycle.
        bool own = false, handed = false;
        Cause control_cause = WORK;
        switch (state) {
        case BOOT:
            word = Word{};
            word.set(load::unit, LOAD), word.set(load::address, (uint64_t)program_address);
            word.set(load::count, (uint64_t)length), word.set(load::element, PROGRAM);
            queues[LOAD].push_back(word), numbers[LOAD].push_back(length);
            state = LOADING, changed = true;
            break;
        case LOADING:
            control_cause = SETUP;
            if (load_ended) state = REGISTERS_STATE, changed = true;
            break;
        case REGISTERS_STATE:
            own = true, changed = true, control_cause = SETUP;
            if (++index == REGISTERS) {
                state = FETCH;
                booted = now + 1, boot_dram = bus.dram_counters(now);
                std::memcpy(boot_causes, causes, sizeof causes);
                for (int u = 0; u < UNITS; u++) boot_causes[u][u == CONTROL ? SETUP : NOTHING]++;  // of this cycle
            }
            break;
        case FETCH:
            if (pc >= length) {
                error = "the program counter left the program";
                state = OVER;
                return true;
            }
            state = READ, changed = true;
            break;
        case READ:
            word = program[pc], state = RESOLVE, changed = true;
            activity[pc].executions++;
            break;
        case RESOLVE:
            resolve();
            state = word.get(any::unit) == CONTROL ? EXECUTE : HAND_OUT, changed = true;
            break;
        case HAND_OUT:
            if (has_room[resolved.get(any::unit)]) handed = true, pc++, state = FETCH, changed = true;
            else control_cause = ROOM;
            break;
        case EXECUTE: {
            uint64_t operation = resolved.get(control::operation), wait = resolved.get(any::wait);
            control_cause = SEMAPHORE;
            if (!granted(CONTROL, wait)) break;
            if (operation == END) {
                if (!is_idle) break;
                state = FLUSH, changed = true;
            } else {
                bool jump;
                changed = true;
                own = resolved.get(control::rd) != 0 && operation != SYNC && operation < BEQ;
                execute(jump);
                pc = jump ? (int64_t)resolved.get(control::target) : pc + 1;
                state = FETCH;
            }
            control_cause = WORK;
            for (int from = 0; from < UNITS; from++)
                if (wait >> from & 1) changes.push_back({from, CONTROL, -1});
            for (int to = 0; to < UNITS; to++)
                if (resolved.get(any::signal) >> to & 1) changes.push_back({CONTROL, to, 1});
            if (record) events.push_back({now, now, CONTROL, ended[CONTROL]});
            ended[CONTROL]++, busy[CONTROL]++;
            break;
        }
        case FLUSH:
            changed = true, control_cause = DRAIN_WAIT;
            if (is_idle && !stream_.fifo.ready) {
                if (++quiet == QUIET_CYCLES) state = OVER;
            } else {
                quiet = 0;
            }
            break;
        case OVER: break;
        }

        // A loaded register waits for a cycle in which the sequencer writes none.
        bool taken = load_.state == Load::WRITE && !own;
        if (taken) put(load_.number, memory_word(load_.address));

        // Units.
        Unit *units[UNITS - 1] = {&load_, &stream_, &matmul_, &vector_, &store_};
        for (int u = 0; u < UNITS - 1; u++)
            if (start[u]) units[u]->activity = &activity[numbers[u].front()];
        changed |= load_.cycle(p, start[LOAD] ? &words[LOAD] : nullptr, arrives[0], grants[0], taken);
        changed |= stream_.cycle(p, start[STREAM] ? &words[STREAM] : nullptr, arrives[1], grants[1], matmul_.takes_beat);
        changed |= matmul_.cycle(p, now, start[MATMUL] ? &words[MATMUL] : nullptr);
        changed |= vector_.cycle(p, now, start[VECTOR] ? &words[VECTOR] : nullptr);
        changed |= store_.cycle(p, now, start[STORE] ? &words[STORE] : nullptr, bus);
        if (store_.wrote) charge(store_.activity);

        // Queues, semaphores, events.
        if (handed) {
            queues[resolved.get(any::unit)].push_back(resolved);
            numbers[resolved.get(any::unit)].push_back(pc - 1);
        }
        for (int u = 0; u < UNITS - 1; u++) {
            Cause cause = was_busy[u] ? units[u]->cause : start[u] ? SETUP
                        : queues[u].empty() ? NOTHING : SEMAPHORE;
            if (cause == DATA && bus.refreshing(now)) cause = REFRESH;
            unit_cause[u] = cause;
            unit_busy[u] = was_busy[u];
            if (done[u]) {
                signals[u].pop_front();
                const Started &begun = starts[u].front();
                if (record) events.push_back({begun.at, now, (uint32_t)u, ended[u]});
                spans[begun.number] += now - begun.at;
                starts[u].pop_front();
                ended[u]++;
                changed = true;
            }
            if (start[u]) {
                signals[u].push_back((uint32_t)words[u].get(any::signal));
                starts[u].push_back({now, numbers[u].front()});
                queues[u].pop_front(), numbers[u].pop_front();
            }
        }
        unit_cause[CONTROL] = control_cause;
        for (const Change &c : changes) counters[c.from][c.to] += c.by;
        for (const Change &c : changes)
            if (counters[c.from][c.to] > SEMAPHORE_MAX) error = "a semaphore overflowed", state = OVER;
        return changed;
    }

    Cause unit_cause[UNITS] = {};
    bool unit_busy[UNITS] = {};

    // The next cycle in which something can change by itself.
    int64_t wake() const {
        bool waits = arvalid || bus.next_event(now + 1) != NEVER || store_.awvalid || store_.wvalid;
        if (bus.stalls.probability > 0 && waits) return now + 1;
        int64_t next = std::min({bus.next_event(now + 1), matmul_.wake(now), vector_.wake(now)});
        return next == NEVER ? NEVER : std::min(next, bus.next_refresh(now));
    }

    // Nothing but STREAM, MATMUL and a vector instruction that has begun can change anything.
    bool streaming() const {
        if (bus.stalls.probability > 0 || load_.state != Load::IDLE || store_.state != Store::IDLE
            || !signals[STORE].empty())
            return false;
        if (state == HAND_OUT) {
            if ((int)queues[resolved.get(any::unit)].size() < QUEUE_DEPTH) return false;
        } else if (state != EXECUTE || granted(CONTROL, resolved.get(any::wait))) {
            return false;
        }
        bool ready[UNITS - 1] = {true, stream_.ready(), matmul_.ready(), vector_.ready(), true};
        for (int u = 0; u < UNITS - 1; u++)
            if (ready[u] && !queues[u].empty() && (int)signals[u].size() < IN_FLIGHT
                && granted(u, queues[u].front().get(any::wait)))
                return false;
        return true;
    }

    // The same as `cycle` again and again, as long as `streaming` holds; most of a decode step is spent here.
    void stream_on(int64_t max_cycles) {
        const int64_t from = now;
        Cause waiting[UNITS];
        for (int u = 0; u < UNITS - 1; u++) waiting[u] = queues[u].empty() ? NOTHING : SEMAPHORE;
        const bool streams = !signals[STREAM].empty(), multiplies = !signals[MATMUL].empty(), vectors = vector_.busy;
        bool free_again = false;
        while (!free_again && !stream_.done() && !matmul_.done() && !vector_.done(now) && now <= max_cycles) {
            bool was_ready = stream_.ready();
            Beat beat;
            bool came = bus.offer(now, beat), asks = stream_.reader.asks(stream_.space());
            matmul_.outputs(p, now, stream_.fifo.ready);
            bool taken = matmul_.takes_beat, changed = came || arvalid || asks;
            if (arvalid) bus.read(now, araddr, (uint32_t)arlen, arid), charge(aractivity);
            arvalid = asks;
            if (asks) {
                arid = 1, araddr = stream_.reader.address, arlen = stream_.reader.burst;
                aractivity = stream_.reader.activity;
            }
            changed |= stream_.cycle(p, nullptr, came, asks, taken);
            changed |= matmul_.cycle(p, now, nullptr);
            vector_.cycle(p, now, nullptr);
            free_again = !was_ready && stream_.ready();
            int64_t next = changed ? now + 1 : wake();
            if (next == NEVER) break;
            Cause stream = streams ? stream_.cause : waiting[STREAM];
            Cause matmul = multiplies ? matmul_.cause : waiting[MATMUL];
            if ((stream == DATA || matmul == DATA) && bus.refreshing(now)) {
                if (stream == DATA) stream = REFRESH;
                if (matmul == DATA) matmul = REFRESH;
            }
            causes[STREAM][stream] += next - now, causes[MATMUL][matmul] += next - now;
            causes[VECTOR][vectors ? vector_.cause : waiting[VECTOR]] += next - now;
            now = next;
        }
        for (int u : {LOAD, STORE}) causes[u][waiting[u]] += now - from;
        causes[CONTROL][state == HAND_OUT ? ROOM : SEMAPHORE] += now - from;
        busy[STREAM] += streams * (now - from), busy[MATMUL] += multiplies * (now - from);
        busy[VECTOR] += vectors * (now - from);
    }

    int run(int64_t max_cycles) {
        while (state != OVER) {
            if (streaming()) stream_on(max_cycles);
            bool changed = cycle();
            int64_t next = changed ? now + 1 : wake();
            if (state == OVER) next = now + 1;
            if (next == NEVER) {
                error = "nothing can happen any more: a semaphore that nobody gives, or weights that nobody streams";
                return 1;
            }
            for (int u = 0; u < UNITS; u++) {
                causes[u][unit_cause[u]] += next - now;
                if (u != CONTROL) busy[u] += unit_busy[u] * (next - now);
            }
            now = next;
            if (now > max_cycles) {
                error = "no end after the most cycles allowed";
                return 1;
            }
        }
        return error.empty() ? 0 : 1;
    }
};

}  // namespace

extern "C" {

void *cycles_new(const Params *params, const DramParams *dram, const Word *words, int64_t length, uint64_t address,
                 const uint8_t *memory, uint64_t size, const int64_t *arguments, double stalls, uint64_t seed,
                 int record) {
    auto *model = new Model(*params, dram, words, length, address, memory, size, stalls, seed, record);
    for (int i = 0; i < 4; i++) model->registers[1 + i] = arguments[i];
    return model;
}

void cycles_constant(void *m, uint64_t address, uint32_t value) {
    static_cast<Model *>(m)->constants[address] = value;
}

int cycles_run(void *m, int64_t max_cycles) { return static_cast<Model *>(m)->run(max_cycles); }
int64_t cycles_now(void *m) { return static_cast<Model *>(m)->now; }
const char *cycles_error(void *m) { return static_cast<Model *>(m)->error.c_str(); }

// Busy cycles, instructions ended, and cycles by cause of each unit.
void cycles_counters(void *m, int64_t *busy, int64_t *ended, int64_t *causes) {
    auto *model = static_cast<Model *>(m);
    for (int u = 0; u < UNITS; u++) busy[u] = model->busy[u], ended[u] = model->ended[u];
    std::memcpy(causes, model->causes, sizeof model->causes);
}

void cycles_dram_counters(void *m, DramCounters *out) {
    auto *model = static_cast<Model *>(m);
    *out = model->bus.dram_counters(model->now);
}

// The same when instruction 0 was fetched; returns that cycle.
int64_t cycles_boot(void *m, int64_t *causes, DramCounters *dram) {
    auto *model = static_cast<Model *>(m);
    std::memcpy(causes, model->boot_causes, sizeof model->boot_causes);
    *dram = model->boot_dram;
    return model->booted;
}

int64_t cycles_events(void *m, Event *out) {
    auto *model = static_cast<Model *>(m);
    if (out) std::memcpy(out, model->events.data(), model->events.size() * sizeof(Event));
    return (int64_t)model->events.size();
}

// Per instruction of the program: what it did, and its cycles from start to end, of all executions.
void cycles_activity(void *m, Activity *out, int64_t *spans) {
    auto *model = static_cast<Model *>(m);
    std::memcpy(spans, model->spans.data(), model->spans.size() * sizeof(int64_t));
    std::memcpy(out, model->activity.data(), model->activity.size() * sizeof(Activity));
}

void cycles_free(void *m) { delete static_cast<Model *>(m); }
}
