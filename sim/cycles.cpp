// When every instruction of a Program starts and ends on the accelerator, to the cycle.
//
// Each unit below is the timing of one file of rtl/: the same states, counters and queues, without the data. Cycles
// in which nothing can change (a vector instruction at work, a burst on its way) are jumped over. Every
// cycle of every unit is booked under a cause, so the causes of a unit add up to the whole run.
//
// A unit's method `cycle` sees the registers of the others as they were before the clock edge: first all
// outputs are formed (who is ready, done, granted), then all units step. It returns whether anything changed.

#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "bus.hpp"
#include "isa.hpp"  // generated from rtl.isa by sim/cycles.py

namespace {

using namespace wordline;

constexpr int MAX_PLANES = 8, QUEUE_DEPTH = 4, IN_FLIGHT = 4, LOAD_FIFO = 128, OUTSTANDING = 15;
constexpr int MAX_BURST = 64, PAGE_BYTES = 4096, QUIET_CYCLES = 4, REGISTERS = 16;
constexpr int64_t SEMAPHORE_MAX = 255;

// What the configuration and the declared timings of PEs and units say; filled in by sim/cycles.py.
struct Params {
    int64_t beat_bytes, stream_beats, program_depth, cols, lanes, vector_lanes, chunks, channel_beats, spacing,
        stream_window, dequant_latency, drain_latency, vector_prepare, vector_depth, sum_settle, sum_words, dram_latency, trit_beat, trit_step;
    int64_t interval[16], latency[16];  // of the PEs, by weight kind
};

// Why a unit spends a cycle as it does.
enum Cause {
    NOTHING,       // no instruction queued
    SEMAPHORE,     // an instruction is queued and waits for other units
    WORK,          // moves data or computes
    SETUP,         // an instruction begins, ends, or changes phase
    DATA,          // waits for DRAM
    ROOM,          // waits for room in a buffer or in a queue
    REFRESH,       // waits for DRAM, which refreshes
    DRAIN_WAIT,    // waits for the pipeline's end
    CAUSES
};

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

int64_t signed40(uint64_t value) { return (int64_t)(value << 24) >> 24; }
int64_t ceil_log2(int64_t x) {
    int n = 0;
    while ((1ll << n) < x) n++;
    return n;
}

struct Event {
    int64_t start, end;
    uint32_t unit, index;
};

// What one instruction of the program did, in all its executions; ACTIVITY in sim/cycles.py.
struct Activity {
    int64_t executions, beats, words, folds, steps, row_steps, tiles, row_tiles, activates, reads, writes;
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
    int64_t step(bool run, uint64_t run_address, int64_t beats, bool granted, int64_t beat_bytes, bool &changed) {
        int64_t asked = 0;
        if (state == IDLE) {
            if (run) address = run_address, left = beats, state = MEASURE, changed = true;
        } else if (state == MEASURE) {
            int64_t page = PAGE_BYTES / beat_bytes, longest = std::min<int64_t>(MAX_BURST, page);
            int64_t to_page = page - (int64_t)(address % PAGE_BYTES) / beat_bytes;
            burst = std::min(left, std::min(to_page, longest)), state = ASK, changed = true;
        } else if (granted) {
            asked = burst, address += burst * beat_bytes, left -= burst;
            state = left ? MEASURE : IDLE, changed = true;
        }
        return asked;
    }
};

struct Unit {
    Cause cause = NOTHING;         // of the cycle that was stepped last
    Activity *activity = nullptr;  // of the instruction that started last
};

struct Load : Unit {
    enum { IDLE, ASK, MOVE, REGISTER, WRITE, FINISH } state = IDLE;
    Reader reader;
    Fifo fifo;
    int64_t room = LOAD_FIFO, count = 0, element = 0, beats = 0, chunks = 0, left = 0, filled = 0;
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
        int64_t asked = reader.step(run, address / p.beat_bytes * p.beat_bytes, beats, granted, p.beat_bytes, changed);
        room += left_fifo - asked;
        return changed;
    }
};

struct Stream : Unit {
    enum { IDLE, PREPARE, READ } state = IDLE;
    Reader reader;
    Fifo fifo;
    int64_t room = 0, flying = 0, most = 0;
    int64_t space() const { return std::min(room, most - flying); }
    uint64_t address = 0;
    int64_t runs = 0, beats = 0, run_beats = 0, each = 0, stride = 0, expected = 0, arrived = 0;
    std::deque<int64_t> ends;

    bool ready() const { return state == IDLE; }
    bool done() const { return !ends.empty() && arrived >= ends.front(); }

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
        if (run && !reader.idle()) run = false;
        int64_t asked = reader.step(run, run_address, run_length, granted, p.beat_bytes, changed);
        arrived += beat;
        room += taken - asked, flying += asked - beat;
        changed |= fifo.step(beat, taken);
        return changed;
    }
};

struct Matmul : Unit {
    enum { IDLE, PREPARE, HEADER, CODES, DRAIN, END } state = IDLE;
    // The instruction.
    int64_t rows = 0, tiles = 0, steps = 0, group_steps = 0, groups = 0, planes = 0, kind = 0, aux = 0;
    bool channel_scales = false, group_scales = false, trits = false;
    int64_t section_size[4] = {};
    int64_t section = 0, at = 0, tile = 0, issued_tiles = 0, done_tiles = 0;
    // The gearbox.
    int64_t missing = 0, expected = 0, fill = 0, slot = 0;
    bool offered_step = false, decoded = false;
    // Steps.
    bool offered = false, group_last = false, tile_last = false, pending = false;
    int64_t step = 0, in_group = 0;
    int64_t guard_until = 0, pe_ready = 0;
    // The drain: when the accumulators' copies are full, free again, and when the last word is written.
    int64_t copied_at = NEVER, drained_at = NEVER, written_at = 0;

    bool ready() const { return state == IDLE; }
    bool done() const { return state == END; }

    // Formed from registers.
    bool takes_step, loads_step, starts_tile, gearbox_takes, takes_beat;

    void outputs(const Params &p, int64_t now, bool beat) {
        bool held = (group_last && now < guard_until) || (tile_last && pending);
        takes_step = offered && !held && now >= pe_ready;
        loads_step = offered_step && (!offered || takes_step);
        starts_tile = state == HEADER && section == 3 && issued_tiles == tile;
        bool free = !offered_step || !offered || takes_step;
        int64_t plane_bits = p.cols * p.lanes, beat_bits = 8 * p.beat_bytes;
        if (trits) {
            bool emit = free && fill >= p.trit_step && expected != 0;
            bool insert = decoded && (emit ? fill - p.trit_step : fill) <= p.trit_step;
            gearbox_takes = missing != 0 && (!decoded || insert);
        } else if (beat_bits <= plane_bits) {
            bool full = slot == planes * (plane_bits / beat_bits);
            gearbox_takes = missing != 0 && (!full || free);
        } else {
            bool emit = free && fill >= planes && expected != 0;
            gearbox_takes = missing != 0 && (emit ? fill - planes : fill) <= MAX_PLANES;
        }
        bool header = state == HEADER && section < 3 && done_tiles + 1 >= tile && at != section_size[section];
        takes_beat = beat && (header || (state == CODES && gearbox_takes));
    }

    int64_t section_beats(const Params &p, int64_t bits) const {
        int64_t bus = 8 * p.beat_bytes;
        return bits >= bus ? groups * (bits / bus) : (groups + bus / bits - 1) / (bus / bits);
    }

    bool cycle(const Params &p, int64_t now, const Word *start, bool beat) {
        bool changed = takes_beat || takes_step || loads_step;
        bool drained = now == drained_at, gearbox_drained = missing == 0;
        cause = takes_step ? WORK : offered && !takes_step ? (now < pe_ready ? WORK : DRAIN_WAIT)
              : takes_beat ? SETUP : SETUP;
        // Front end.
        int64_t issued = issued_tiles;
        switch (state) {
        case IDLE:
            if (start) {
                rows = start->get(matmul::rows) & 31, tiles = start->get(matmul::tiles);
                steps = start->get(matmul::steps), groups = start->get(matmul::groups);
                group_steps = start->get(matmul::group_steps), planes = start->get(matmul::planes);
                kind = start->get(matmul::kind), aux = start->get(matmul::aux);
                channel_scales = start->get(matmul::channel_scales), group_scales = start->get(matmul::group_scales);
                if (group_steps == 0) group_steps = steps;
                trits = start->get(matmul::order) == TRITS;
                tile = issued_tiles = issued = done_tiles = 0;
                state = PREPARE, changed = true;
            }
            break;
        case PREPARE:
            section_size[0] = channel_scales ? p.channel_beats : 0;
            section_size[1] = group_scales ? section_beats(p, 8 * p.cols) : 0;
            section_size[2] = aux == NO_AUX ? 0 : section_beats(p, aux == SELECT ? 2 * p.cols : 8 * p.cols);
            section = at = 0;
            state = tiles && steps && rows ? HEADER : END;
            changed = true;
            break;
        case HEADER:
            if (section == 3) {
                if (starts_tile) section = 0, tile++, state = CODES, changed = true;
                else if (cause != WORK && cause != DRAIN_WAIT) cause = DRAIN_WAIT;
            } else if (done_tiles + 1 < tile) {
                if (cause != WORK) cause = DRAIN_WAIT;
            } else if (at == section_size[section]) {
                section++, at = 0, changed = true;
            } else if (takes_beat) {
                at++;
            } else if (cause != WORK) {
                cause = DATA;
            }
            break;
        case CODES:
            if (gearbox_drained) state = tile == tiles ? DRAIN : HEADER, changed = true;
            else if (cause == SETUP && !beat) cause = DATA;
            else if (cause == SETUP && takes_beat) cause = WORK;
            break;
        case DRAIN:
            if (cause != WORK) cause = DRAIN_WAIT;
            if (done_tiles == tiles && now >= written_at) state = END, changed = true;
            break;
        case END:
            state = IDLE, changed = true;
            break;
        }
        gearbox(p, state_was_codes(beat), changed);
        // Steps.
        if (takes_beat) activity->beats++;
        if (takes_step) activity->steps++, activity->row_steps += rows;
        if (takes_step && tile_last) activity->tiles++, activity->row_tiles += rows;
        bool last_in_tile = step == steps - 1, last_in_group = in_group == group_steps - 1 || last_in_tile;
        if (takes_step) {
            offered = false;
            pe_ready = now + p.interval[kind];
            if (group_last) guard_until = now + p.spacing;
        }
        if (drained) pending = false, done_tiles++, drained_at = NEVER, changed = true;
        if (takes_step && tile_last) {
            pending = true;
            copied_at = now + p.latency[kind] + p.dequant_latency + 1;
            drained_at = copied_at + 2 + rows * p.chunks;
            written_at = drained_at + p.drain_latency;
        }
        if (loads_step) {
            offered = true, group_last = last_in_group, tile_last = last_in_tile;
            step = last_in_tile ? 0 : step + 1, in_group = last_in_group ? 0 : in_group + 1;
            issued_tiles = issued + last_in_tile;
        }
        return changed;
    }

    bool state_was_codes(bool beat) const { return beat && takes_beat && in_codes; }
    bool in_codes = false;  // set before `cycle` by the caller

    void gearbox(const Params &p, bool moved, bool &changed) {
        bool free = !offered_step || loads_step;
        int64_t plane_bits = p.cols * p.lanes, beat_bits = 8 * p.beat_bytes;
        if (trits) {
            bool emit = free && fill >= p.trit_step && expected != 0;
            if (free) changed |= emit != offered_step, offered_step = emit;
            if (emit) expected--, fill -= p.trit_step, changed = true;
            if (decoded && fill <= p.trit_step) fill += p.trit_beat, decoded = false, changed = true;
            if (moved) missing = std::max<int64_t>(0, missing - p.trit_beat), decoded = true;
            if (starts_tile) missing = steps * p.trit_step, expected = steps, fill = 0, decoded = false;
        } else if (beat_bits <= plane_bits) {
            int64_t parts = plane_bits / beat_bits;
            bool full = slot == planes * parts;
            if (free) {
                bool valid = full && planes != 0;
                changed |= valid != offered_step, offered_step = valid;
            }
            if (full && free) changed |= slot != moved, slot = moved;
            else if (moved) slot++;
            missing -= moved;
            if (starts_tile) missing = steps * planes * parts, slot = 0;
        } else {
            int64_t parts = beat_bits / plane_bits;
            bool emit = free && fill >= planes && expected != 0;
            if (free) changed |= emit != offered_step, offered_step = emit;
            if (emit) expected -= planes, fill -= planes, changed = true;
            if (moved) missing = std::max<int64_t>(0, missing - parts), fill += parts;
            if (starts_tile) missing = expected = steps * planes, fill = 0;
        }
    }

    int64_t wake(int64_t now) const {
        int64_t at = NEVER;
        for (int64_t t : {pe_ready, guard_until, drained_at, written_at})
            if (t > now && t != NEVER) at = std::min(at, t);
        return at;
    }
};

struct Vector : Unit {
    int64_t end = -1;  // cycle of `done`
    int64_t work_from = 0, work_to = 0;
    bool busy = false;

    bool ready() const { return !busy; }
    bool done(int64_t now) const { return busy && now == end; }

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
        words *= start->get(vector::outer) + 1;
        int64_t reduction = start->get(vector::reduction), reduce = 1;
        if (reduction == SUM) {
            int64_t levels = ceil_log2(std::max<int64_t>(1, std::min(words, p.sum_words)));
            reduce = 2 + p.sum_settle + ceil_log2(lanes) * p.sum_settle;
            for (int64_t k = 0; k < levels; k++) reduce += (1ll << k) + p.sum_settle;
            activity->folds += (1ll << levels) - 1;
        } else if (reduction != NO_REDUCTION) {
            reduce = lanes + 1;
        }
        activity->words += words;
        busy = true;
        work_from = now + 1 + p.vector_prepare, work_to = work_from + words;
        end = now + p.vector_prepare + std::max<int64_t>(words, 1) + p.vector_depth + 2 + reduce + 1;
        cause = SETUP;
        return true;
    }

    int64_t wake(int64_t now) const {
        if (!busy) return NEVER;
        return now < work_from ? work_from : now < work_to ? work_to : end;
    }
};

struct Store : Unit {
    enum { IDLE, PREPARE, FETCH, WORDS, GATHER, PACKED, NEXT, ANSWERS } state = IDLE;
    uint64_t address = 0, at = 0, awaddr = 0;
    int64_t count = 0, mode = 0, bits = 0, piece = 0, run_stride = 0;
    int64_t left = 0, lane = 0, part = 0, gathered = 0, outstanding = 0;
    bool awvalid = false, wvalid = false, wrote = false;  // wrote: DRAM was, in the cycle stepped last
    std::deque<uint64_t> addresses;  // taken, their beats not yet
    int64_t beats = 0;               // taken, their addresses not yet

    bool ready() const { return state == IDLE; }
    bool done() const { return state == ANSWERS && !awvalid && !wvalid && outstanding == 0; }

    bool cycle(const Params &p, int64_t now, const Word *start, Bus &bus) {
        bool awready = bus.ready(AW, now), wready = bus.ready(W, now), answer = bus.answer_due(now);
        bool changed = answer || awvalid || wvalid;
        bool free = (!awvalid || awready) && (!wvalid || wready) && outstanding < OUTSTANDING;
        bool offer = false, finished = done();
        uint64_t target = at;
        cause = SETUP;
        if (awvalid && awready) addresses.push_back(awaddr);
        if (wvalid && wready) beats++;
        wrote = !addresses.empty() && beats;
        for (; !addresses.empty() && beats; beats--, addresses.pop_front()) bus.write(now, addresses.front(), true, false);
        switch (state) {
        case IDLE:
            if (start) {
                address = start->get(store::address), count = start->get(store::count);
                mode = start->get(store::mode), bits = start->get(store::bits), piece = start->get(store::piece);
                run_stride = start->get(store::run_stride);
                state = PREPARE, changed = true;
            }
            break;
        case PREPARE:
            at = address, left = count, lane = part = gathered = 0;
            state = count ? FETCH : ANSWERS, changed = true;
            break;
        case FETCH:
            state = mode == PACKED_MODE ? GATHER : WORDS, changed = true, activity->words++;
            break;
        case WORDS: {
            bool ends = (int64_t)(at % p.beat_bytes) / 4 == p.beat_bytes / 4 - 1 || left == 1;
            offer = ends, cause = free || !ends ? WORK : ROOM;
            if (free || !ends) {
                changed = true;
                at += 4, left--;
                if (left == 0) state = ANSWERS;
                else if (lane == p.vector_lanes - 1) state = FETCH;
                lane = (lane + 1) % p.vector_lanes;
            }
            break;
        }
        case GATHER:
            cause = WORK, changed = true;
            gathered += p.vector_lanes;
            state = FETCH;
            if (gathered == piece) gathered = 0, state = PACKED;
            break;
        case PACKED:
            offer = true, cause = free ? WORK : ROOM;
            if (free) {
                changed = true;
                at += p.beat_bytes, part++;
                if (part == std::max<int64_t>(1, piece * bits / (8 * p.beat_bytes))) {
                    address += run_stride, left--, part = 0;
                    state = left ? NEXT : ANSWERS;
                }
            }
            break;
        case NEXT:
            at = address, state = GATHER, changed = true;
            break;
        case ANSWERS:
            cause = DATA;
            if (finished) state = IDLE, changed = true;
            break;
        }
        outstanding += (offer && free) - answer;
        if (offer && free) activity->beats++;
        if (answer) bus.answered();
        if (awready) awvalid = false;
        if (wready) wvalid = false;
        if (offer && free) awvalid = wvalid = true, awaddr = target / p.beat_bytes * p.beat_bytes;
        return changed;
    }
};

struct Model {
    Params p;
    Bus bus;
    const Word *program;
    int64_t length;
    const uint8_t *memory;
    uint64_t memory_size;
    int64_t program_address;

    Load load_;
    Stream stream_;
    Matmul matmul_;
    Vector vector_;
    Store store_;

    // Dispatch.
    std::deque<Word> queues[UNITS - 1];
    std::deque<uint32_t> signals[UNITS - 1];
    std::deque<int64_t> starts[UNITS - 1];
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

    Model(const Params &params, const DramParams *dram, const Word *words, int64_t n, uint64_t address, const uint8_t *mem, uint64_t size,
          double stalls, uint64_t seed, bool rec)
        : p(params), bus(params.dram_latency, (uint32_t)params.beat_bytes, dram), program(words), length(n), memory(mem),
          memory_size(size), program_address((int64_t)address), record(rec), activity(n + 1) {
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
            resolved.set(any::short_imm[i], word.get(any::short_imm[i]) + (uint64_t)registers[word.get(any::short_reg[i])]);
    }

    // DRAM's commands since the last call are those of an instruction.
    void charge(Activity *a) {
        DramCounters is = bus.dram_counters(now);
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
        matmul_.in_codes = matmul_.state == Matmul::CODES;
        bool fifo_taken = matmul_.takes_beat;

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
                booted = now + 1, boot_dram = bus.dram_so_far();
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
            if (start[u]) units[u]->activity = &activity[numbers[u].front()], numbers[u].pop_front();
        changed |= load_.cycle(p, start[LOAD] ? &words[LOAD] : nullptr, arrives[0], grants[0], taken);
        changed |= stream_.cycle(p, start[STREAM] ? &words[STREAM] : nullptr, arrives[1], grants[1], fifo_taken);
        changed |= matmul_.cycle(p, now, start[MATMUL] ? &words[MATMUL] : nullptr, fifo_taken);
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
                if (record) events.push_back({starts[u].front(), now, (uint32_t)u, ended[u]});
                starts[u].pop_front();
                ended[u]++;
                changed = true;
            }
            if (start[u]) {
                signals[u].push_back((uint32_t)words[u].get(any::signal));
                starts[u].push_back(now);
                queues[u].pop_front();
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
        if (bus.stalls.probability > 0 && (arvalid || bus.next_event(now + 1) != NEVER || store_.awvalid || store_.wvalid))
            return now + 1;
        int64_t next = std::min({bus.next_event(now + 1), matmul_.wake(now), vector_.wake(now)});
        return next == NEVER ? NEVER : std::min(next, bus.next_refresh(now));
    }

    // Nothing but STREAM, MATMUL and a vector instruction that has begun can change anything.
    bool streaming() const {
        if (bus.stalls.probability > 0 || load_.state != Load::IDLE || store_.state != Store::IDLE) return false;
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
            matmul_.in_codes = matmul_.state == Matmul::CODES;
            bool taken = matmul_.takes_beat, changed = came || arvalid || asks;
            if (arvalid) bus.read(now, araddr, (uint32_t)arlen, arid), charge(aractivity);
            arvalid = asks;
            if (asks) {
                arid = 1, araddr = stream_.reader.address, arlen = stream_.reader.burst;
                aractivity = stream_.reader.activity;
            }
            changed |= stream_.cycle(p, nullptr, came, asks, taken);
            changed |= matmul_.cycle(p, now, nullptr, taken);
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

void *cycles_new(const Params *params, const DramParams *dram, const Word *words, int64_t length, uint64_t address, const uint8_t *memory,
                 uint64_t size, const int64_t *arguments, double stalls, uint64_t seed, int record) {
    auto *model = new Model(*params, dram, words, length, address, memory, size, stalls, seed, record);
    for (int i = 0; i < 4; i++) model->registers[1 + i] = arguments[i];
    return model;
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

void cycles_activity(void *m, Activity *out) {
    auto *model = static_cast<Model *>(m);
    std::memcpy(out, model->activity.data(), model->activity.size() * sizeof(Activity));
}

void cycles_free(void *m) { delete static_cast<Model *>(m); }
}
