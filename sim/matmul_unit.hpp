// The timing of rtl/matmul_unit.py, gearbox.py, trits.py and drain.py.
#pragma once

#include "bus.hpp"
#include "unit.hpp"

namespace wordline {

// rtl.gearbox.Gearbox, or rtl.trits.TritGearbox: from beats to steps. `missing`, `expected` and `fill` count planes;
// of steps of whole beats, `missing` and `slot` beats; of ternary weights, units of `trit_beat` and `trit_step`.
struct Gearbox {
    int64_t planes = 0;
    bool trits = false;
    int64_t missing = 0, expected = 0, fill = 0, slot = 0;
    bool offers = false, decoded = false;

    static int64_t in_beats(const Params &p, int64_t planes) { return planes * p.cols * p.lanes / (8 * p.beat_bytes); }

    // Formed from registers.
    bool free, emits, takes;

    void outputs(const Params &p, bool loads_step) {
        free = !offers || loads_step;
        if (trits) {
            emits = free && fill >= p.trit_step && expected != 0;
            takes = missing != 0 && (!decoded || inserts(p));
        } else if (p.whole_beats) {
            bool full = slot == in_beats(p, planes);
            emits = free && full && planes != 0;
            takes = missing != 0 && (!full || free);
        } else {
            emits = free && fill >= planes && expected != 0;
            takes = missing != 0 && fill - emits * planes <= MAX_PLANES;
        }
    }

    // Ternary weights: a decoded beat joins those that wait.
    bool inserts(const Params &p) const { return decoded && fill - emits * p.trit_step <= p.trit_step; }

    // `moved`: a beat is taken; `starts`: a tile of `steps` steps begins.
    void step(const Params &p, int64_t steps, bool moved, bool starts, bool &changed) {
        if (free) changed |= emits != offers, offers = emits;
        if (trits) {
            bool insert = inserts(p);
            if (emits) expected--, fill -= p.trit_step, changed = true;
            if (insert) fill += p.trit_beat, decoded = false, changed = true;
            if (moved) missing = std::max<int64_t>(0, missing - p.trit_beat), decoded = true;
            if (starts) missing = steps * p.trit_step, expected = steps, fill = 0, decoded = false;
        } else if (p.whole_beats) {
            if (slot == in_beats(p, planes) && free) changed |= slot != moved, slot = moved;
            else if (moved) slot++;
            missing -= moved;
            if (starts) missing = in_beats(p, steps * planes), slot = 0;
        } else {
            int64_t parts = 8 * p.beat_bytes / (p.cols * p.lanes);
            if (emits) expected -= planes, fill -= planes, changed = true;
            if (moved) missing = std::max<int64_t>(0, missing - parts), fill += parts;
            if (starts) missing = expected = steps * planes, fill = 0;
        }
    }
};

struct Matmul : Unit {
    enum { IDLE, PREPARE, HEADER, CODES, DRAIN, END } state = IDLE;
    // The instruction.
    int64_t rows = 0, tiles = 0, steps = 0, group_steps = 0, groups = 0, kind = 0, aux = 0;
    int64_t kept = 0;
    bool channel_scales = false, group_scales = false, sparse = false;
    // Of a header: channel scales, group scales, selects or zeros, the groups' index, picks.
    static constexpr int SECTIONS = 5;
    int64_t section_size[SECTIONS + 1] = {};
    int64_t section = 0, at = 0, tile = 0, issued_tiles = 0, done_tiles = 0;
    Gearbox gearbox;
    // Steps.
    bool offered = false, group_last = false, tile_last = false, pending = false;
    int64_t step = 0, in_group = 0;
    int64_t guard_until = 0, pe_ready = 0;
    // The drain: when the accumulators' copies are full, free again, and when the last word is written.
    int64_t copied_at = NEVER, drained_at = NEVER, written_at = 0;

    bool ready() const { return state == IDLE; }
    bool done() const { return state == END; }

    // Formed from registers.
    bool takes_step, loads_step, starts_tile, takes_beat, takes_codes;

    void outputs(const Params &p, int64_t now, bool beat) {
        bool held = (group_last && now < guard_until) || (tile_last && pending);
        takes_step = offered && !held && now >= pe_ready;
        loads_step = gearbox.offers && (!offered || takes_step);
        starts_tile = state == HEADER && section == SECTIONS && issued_tiles == tile;
        gearbox.outputs(p, loads_step);
        bool header = state == HEADER && section < SECTIONS && done_tiles + 1 >= tile && at != section_size[section];
        takes_codes = beat && state == CODES && gearbox.takes;
        takes_beat = (beat && header) || takes_codes;
    }

    int64_t section_beats(const Params &p, int64_t bits, int64_t count) const {
        int64_t bus = 8 * p.beat_bytes;
        return bits >= bus ? count * (bits / bus) : (count + bus / bits - 1) / (bus / bits);
    }

    bool cycle(const Params &p, int64_t now, const Word *start) {
        bool changed = takes_beat || takes_step || loads_step;
        bool drained = now == drained_at, gearbox_drained = gearbox.missing == 0;
        cause = takes_step || (offered && now < pe_ready) ? WORK : offered ? DRAIN_WAIT : SETUP;
        // Front end.
        int64_t issued = issued_tiles;
        switch (state) {
        case IDLE:
            if (start) {
                rows = start->get(matmul::rows) & 31, tiles = start->get(matmul::tiles);
                steps = start->get(matmul::steps), groups = start->get(matmul::groups);
                group_steps = start->get(matmul::group_steps);
                gearbox.planes = start->get(matmul::planes), gearbox.trits = start->get(matmul::order) == TRITS;
                kind = start->get(matmul::kind), aux = start->get(matmul::aux);
                channel_scales = start->get(matmul::channel_scales), group_scales = start->get(matmul::group_scales);
                sparse = start->get(matmul::sparse), kept = start->get(matmul::kept);
                if (group_steps == 0) group_steps = steps;
                tile = issued_tiles = issued = done_tiles = 0;
                state = PREPARE, changed = true;
            }
            break;
        case PREPARE:
            section_size[0] = channel_scales ? p.channel_beats : 0;
            section_size[1] = group_scales ? section_beats(p, 8 * p.cols, groups) : 0;
            section_size[2] = AUX_BITS[aux] ? section_beats(p, AUX_BITS[aux] * p.cols, groups) : 0;
            section_size[3] = section_beats(p, 16, groups);
            section_size[4] = p.pick_bits ? section_beats(p, p.lanes * p.pick_bits, steps) : 0;
            section = at = 0;
            state = tiles && steps && rows ? HEADER : END;
            changed = true;
            break;
        case HEADER:
            if (section == SECTIONS) {
                if (starts_tile) section = 0, tile++, state = CODES, changed = true;
                else if (cause != WORK && cause != DRAIN_WAIT) cause = DRAIN_WAIT;
            } else if (done_tiles + 1 < tile) {
                if (cause != WORK) cause = DRAIN_WAIT;
            } else if (at == section_size[section]) {
                section = section < 2 ? section + 1 : section > 2 ? SECTIONS : sparse ? 3 : kept ? 4 : SECTIONS;
                at = 0, changed = true;
            } else if (takes_beat) {
                at++;
            } else if (cause != WORK) {
                cause = DATA;
            }
            break;
        case CODES:
            if (gearbox_drained) state = tile == tiles ? DRAIN : HEADER, changed = true;
            else if (cause == SETUP) cause = takes_beat ? WORK : DATA;
            break;
        case DRAIN:
            if (cause != WORK) cause = DRAIN_WAIT;
            if (done_tiles == tiles && now >= written_at) state = END, changed = true;
            break;
        case END:
            state = IDLE, changed = true;
            break;
        }
        gearbox.step(p, steps, takes_codes, starts_tile, changed);
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

    int64_t wake(int64_t now) const {
        int64_t at = NEVER;
        for (int64_t t : {pe_ready, guard_until, drained_at, written_at})
            if (t > now && t != NEVER) at = std::min(at, t);
        return at;
    }
};

}  // namespace wordline
