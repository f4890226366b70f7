// When DRAM answers: the one timing model, used by the memory behind the RTL and by the cycle model.
//
// A channel serves its bursts first come first served and leaves rows open. Column commands (RD, WR) and with
// them the data bus go in the order of the calls; so do ACTs among themselves. Row commands of a burst may run
// ahead of the column commands before it, as far as a controller with a queue of QUEUE bursts sees: that is
// what hides a row change behind data of other banks. No clock is ever stepped: every command gets the first
// clock that all constraints and the command bus (one command a clock and channel) allow.
//
// Refresh: every channel owes REF number k at clock k * tREFI. A burst whose last command would fall at or
// after that clock waits: precharge all (not before it was due), REF, tRFC, then the burst with all rows closed.
// So no command ever moves once it has been placed, and all channels refresh at the same time.
//
// Constraints are from command to command, except tWR and tWTR, which count from the end of the data (JEDEC).
// Only integers: equal calls give equal answers, on any machine.

#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace wordline {

enum DramField : int32_t { CHANNEL, GROUP, BANK, ROW, COLUMN, DRAM_FIELDS };
enum DramCommandKind : int32_t { ACT, PRE, PREA, RD, WR, REF };  // PREA: precharge all banks

// What `sim/dram.py` has checked: counts are powers of two, and tREFI leaves time for work between refreshes.
struct DramParams {
    int64_t tck_ps, core_ps;  // periods: the DRAM's command clock, the accelerator's clock
    int32_t channels, bank_groups, banks, rows, columns, burst_bytes;  // banks of a group, bursts of a row
    int32_t burst;            // command clocks that a burst holds the data bus; all below in command clocks too
    int32_t tRCD, tRP, tRAS, tRC, tCCD_S, tCCD_L, tRRD_S, tRRD_L, tFAW, tWR, tWTR_S, tWTR_L, tRTP, tRTW;
    int32_t CL, CWL;
    int32_t tREFI, tRFC;      // tREFI 0: no refresh
    int32_t front, back;      // core cycles through controller and PHY: to the DRAM, and from it
    int32_t map[DRAM_FIELDS]; // the fields of an address above its burst offset, least significant first
};

struct DramCommand {
    int64_t time;  // command clocks
    int32_t channel, command, group, bank, row, column;  // -1 where the command has none
};

struct DramCounters {
    int64_t commands[6];              // by DramCommandKind
    int64_t hits, misses, conflicts;  // bursts that found their row open, no row open, another row open
    int64_t data_clocks;              // command clocks with data on a bus, all channels
    int64_t refresh_clocks;           // command clocks from a refresh's due time to its end, all channels
};

class Dram {
public:
    static constexpr int QUEUE = 32;

    DramCounters counters{};
    bool record = false;
    std::vector<DramCommand> trace;  // if `record`: commands in the order in which they were decided

    explicit Dram(const DramParams &params) : p(params) {
        const int32_t counts[DRAM_FIELDS] = {p.channels, p.bank_groups, p.banks, p.rows, p.columns};
        int shift = log2(p.burst_bytes);
        for (int32_t field : p.map) {
            shifts_[field] = shift;
            masks_[field] = counts[field] - 1;
            shift += log2(counts[field]);
        }
        // The longest time between a row command that may still be placed and the last column command.
        int64_t worst = 256;
        for (int64_t t : {p.tRCD, p.tRP, p.tRAS, p.tRC, p.tCCD_L, p.tRRD_L, p.tFAW, p.tWR, p.tWTR_L, p.tRTP,
                          p.tRTW, p.CL, p.CWL, p.burst, p.tRFC})
            worst += t;
        Channel channel;
        channel.banks.resize(p.bank_groups * p.banks);
        channel.groups.resize(p.bank_groups);
        channel.words.resize(int64_t{1} << log2(worst * (QUEUE + 2) / 64));
        channel.refresh_due = p.tREFI ? p.tREFI : NEVER;
        channels_.assign(p.channels, channel);
    }

    // One burst at `address`; address bits above the DRAM's size are ignored. Calls in non-decreasing order
    // of `arrival`, the core cycle in which the request reaches the controller. Returns the core cycle in
    // which the accelerator has all read data, or knows that the data is written.
    int64_t access(int64_t arrival, uint64_t address, bool write) {
        if (arrival != arrival_) {
            arrival_ = arrival;
            arrived_ = ceil_div((arrival + p.front) * p.core_ps, p.tck_ps);
        }
        const int32_t number = field(address, CHANNEL);
        Channel &c = channels_[number];
        const Place at{field(address, GROUP), field(address, BANK), field(address, ROW), field(address, COLUMN)};
        Plan plan = schedule(c, at, write);
        while (plan.column >= c.refresh_due) {
            refresh(c, number);
            plan = schedule(c, at, write);
        }
        const int64_t end = commit(c, number, at, write, plan);
        return ceil_div(end * p.tck_ps, p.core_ps) + p.back;
    }

    // Does the refreshes due by a core cycle after the last access, so that the counters hold them.
    void settle(int64_t cycle) {
        const int64_t now = ceil_div(cycle * p.core_ps, p.tck_ps);
        for (int32_t i = 0; i < p.channels; i++)
            while (channels_[i].refresh_due <= now) refresh(channels_[i], i);
    }

private:
    static constexpr int64_t LONG_AGO = INT64_MIN / 2, NEVER = INT64_MAX;

    struct Place {
        int32_t group, bank, row, column;
    };

    struct Plan {  // times; -1: not needed
        int64_t precharge, activate, column;
    };

    // The first clocks in which a bank may take each command, and the open row (-1: closed).
    struct Bank {
        int32_t row = -1;
        int64_t activate = 0, column = 0, precharge = 0;
    };

    struct Group {
        int64_t last_activate = LONG_AGO, last_column = LONG_AGO, write_end = LONG_AGO;
    };

    struct Word {  // 64 clocks of the command bus
        int64_t index = -1;
        uint64_t taken = 0;
    };

    struct Channel {
        std::vector<Bank> banks;
        std::vector<Group> groups;
        Group all;                        // the same times over all groups
        std::vector<Word> words;          // a ring; a word that holds older clocks is free
        int64_t activates[4] = {LONG_AGO, LONG_AGO, LONG_AGO, LONG_AGO};
        int64_t columns[QUEUE] = {};      // column commands of the last QUEUE bursts
        int64_t last_read = LONG_AGO, data_end = LONG_AGO;
        int64_t ready = 0, refresh_due = 0;  // end of the last refresh, due time of the next
        uint32_t activated = 0, served = 0;
    };

    // The first clock from `t` on in which the command bus is free.
    static int64_t free_clock(const Channel &c, int64_t t) {
        for (;; t = (t | 63) + 1) {
            const Word &word = c.words[(t >> 6) & (c.words.size() - 1)];
            const uint64_t taken = word.index == t >> 6 ? word.taken : 0;
            const uint64_t open = ~taken & ~uint64_t{0} << (t & 63);
            if (open) return (t & ~int64_t{63}) + __builtin_ctzll(open);
        }
    }

    Plan schedule(const Channel &c, const Place &at, bool write) const {
        const Bank &bank = c.banks[at.group * p.banks + at.bank];
        const Group &group = c.groups[at.group];
        // Its place in the queue is free once the burst QUEUE before it has gone.
        const int64_t from = std::max({arrived_, c.ready, c.columns[c.served % QUEUE]});
        Plan plan{-1, -1, std::max(from, bank.column)};
        if (bank.row != at.row) {
            int64_t t = std::max({from, bank.activate, c.all.last_activate + p.tRRD_S, group.last_activate + p.tRRD_L,
                                  c.activates[c.activated % 4] + p.tFAW});
            if (bank.row >= 0) {
                plan.precharge = free_clock(c, std::max(from, bank.precharge));
                t = std::max(t, plan.precharge + p.tRP);
            }
            plan.activate = free_clock(c, t);
            plan.column = plan.activate + p.tRCD;
        }
        int64_t t = std::max({plan.column, c.all.last_column + p.tCCD_S, group.last_column + p.tCCD_L});
        if (write)
            t = std::max({t, c.last_read + p.tRTW, c.data_end - p.CWL});
        else
            t = std::max({t, c.all.write_end + p.tWTR_S, group.write_end + p.tWTR_L, c.data_end - p.CL});
        plan.column = free_clock(c, t);
        return plan;
    }

    // Places the planned commands; returns the clock in which the data ends.
    int64_t commit(Channel &c, int32_t channel, const Place &at, bool write, const Plan &plan) {
        Bank &bank = c.banks[at.group * p.banks + at.bank];
        Group &group = c.groups[at.group];
        if (plan.activate < 0) {
            counters.hits++;
        } else {
            if (plan.precharge < 0) {
                counters.misses++;
            } else {
                counters.conflicts++;
                issue(c, {plan.precharge, channel, PRE, at.group, at.bank, -1, -1});
            }
            issue(c, {plan.activate, channel, ACT, at.group, at.bank, at.row, -1});
            bank = {at.row, plan.activate + p.tRC, plan.activate + p.tRCD, plan.activate + p.tRAS};
            c.all.last_activate = group.last_activate = c.activates[c.activated++ % 4] = plan.activate;
        }
        issue(c, {plan.column, channel, write ? WR : RD, at.group, at.bank, at.row, at.column});
        c.all.last_column = group.last_column = c.columns[c.served++ % QUEUE] = plan.column;
        c.data_end = plan.column + (write ? p.CWL : p.CL) + p.burst;
        if (write) {
            c.all.write_end = group.write_end = c.data_end;
            bank.precharge = std::max(bank.precharge, c.data_end + p.tWR);
        } else {
            c.last_read = plan.column;
            bank.precharge = std::max(bank.precharge, plan.column + p.tRTP);
        }
        counters.data_clocks += p.burst;
        return c.data_end;
    }

    // All earlier commands lie before the due time and all later ones after the refresh: nothing can collide.
    void refresh(Channel &c, int32_t channel) {
        bool open = false;
        int64_t precharge = c.refresh_due, start = c.refresh_due;
        for (const Bank &bank : c.banks)
            if (bank.row >= 0) open = true, precharge = std::max(precharge, bank.precharge);
        if (open) {
            issue(c, {precharge, channel, PREA, -1, -1, -1, -1});
            start = precharge + p.tRP;
        }
        for (Bank &bank : c.banks) start = std::max(start, bank.activate), bank.row = -1;
        issue(c, {start, channel, REF, -1, -1, -1, -1});
        c.ready = start + p.tRFC;
        counters.refresh_clocks += c.ready - c.refresh_due;
        c.refresh_due += p.tREFI;
        for (Bank &bank : c.banks) bank.activate = c.ready;
    }

    void issue(Channel &c, const DramCommand &command) {
        Word &word = c.words[(command.time >> 6) & (c.words.size() - 1)];
        if (word.index != command.time >> 6) word = {command.time >> 6, 0};
        word.taken |= uint64_t{1} << (command.time & 63);
        counters.commands[command.command]++;
        if (record) trace.push_back(command);
    }

    int32_t field(uint64_t address, DramField name) const {
        return static_cast<int32_t>(address >> shifts_[name]) & masks_[name];
    }

    static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

    static int log2(int64_t n) {  // rounded up
        int bits = 0;
        while (int64_t{1} << bits < n) bits++;
        return bits;
    }

    const DramParams p;
    int shifts_[DRAM_FIELDS];
    int32_t masks_[DRAM_FIELDS];
    std::vector<Channel> channels_;
    int64_t arrival_ = -1, arrived_ = 0;
};

}  // namespace wordline
