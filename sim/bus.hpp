// The memory's side of the AXI4 bus, in time: when each channel is ready, when each beat and each answer comes.
//
// The Verilated run and the cycle model include this very file, so both see the same memory. A read's beats come when
// the DRAM has them, without a DRAM `latency` cycles after the address was taken; one a cycle, bursts in the
// order of their addresses. With stalls above zero every channel hesitates, and beats of different IDs
// change places: both are pure functions of seed, channel and cycle.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <limits>
#include <optional>
#include <vector>

#include "dram.hpp"

namespace wordline {

constexpr int64_t NEVER = std::numeric_limits<int64_t>::max();

enum Channel { AR, R, AW, W, B, ORDER };

struct Stalls {
    double probability = 0;
    uint64_t seed = 0;

    bool operator()(int channel, int64_t cycle) const {
        if (probability <= 0) return false;
        uint64_t x = seed * 0x9E3779B97F4A7C15u + (uint64_t)cycle * 64 + (uint64_t)channel;  // splitmix64
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
        x = (x ^ x >> 27) * 0x94D049BB133111EBu;
        x ^= x >> 31;
        return (x >> 11) * 0x1p-53 < probability;
    }
};

struct Beat {
    uint64_t address;
    uint32_t id;
    bool last;
};

class Bus {
public:
    Stalls stalls;

    // Without a DRAM (`dram` null) every access takes `latency` cycles. Of several ports in lockstep each has the same
    // part of the DRAM's channels to itself, and all see the same requests in the same cycles: `dram` is one port's.
    Bus(int64_t latency, uint32_t beat_bytes, uint32_t ports, const DramParams *dram)
        : latency_(latency), beat_bytes_(beat_bytes), ports_(ports) {
        if (dram) params_ = *dram;
        restart();
    }

    bool ready(Channel channel, int64_t now) const { return !stalls(channel, now); }

    // A read address is taken in cycle `now`.
    void read(int64_t now, uint64_t address, uint32_t beats, uint32_t id) {
        reads_.push_back({address, beats, id, {}});
        std::vector<int64_t> &due = reads_.back().due;
        due.assign(beats, now + latency_);
        if (!dram_) return;
        const uint64_t size = params_->burst_bytes, slice = beat_bytes_ / ports_;  // a port's part of a beat
        const uint64_t from = address / ports_, end = from + beats * slice;
        std::fill(due.begin(), due.end(), 0);
        for (uint64_t at = from / size * size; at < end; at += size) {
            int64_t done = dram_->access(now, at, false);
            uint64_t first = at > from ? (at - from) / slice : 0;
            uint64_t last = (std::min(at + size, end) - 1 - from) / slice;
            for (uint64_t i = first; i <= last; i++) due[i] = std::max(due[i], done);
        }
    }

    // The beat that is offered in cycle `now`, if any; once offered it counts as given.
    bool offer(int64_t now, Beat &beat) {
        if (reads_.empty() || stalls(R, now)) return false;
        auto burst = reads_.begin() + next(now);
        if (now < burst->next_due()) return false;
        beat = {burst->address, burst->id, burst->left == 1};
        burst->address += beat_bytes_;
        if (--burst->left == 0) reads_.erase(burst);
        return true;
    }

    // A write beat is complete, address and data, in cycle `now`; a burst is answered when all of it is written.
    void write(int64_t now, uint64_t address, bool last, bool bad) {
        int64_t done = now + latency_;
        if (dram_) {
            const uint64_t from = address / ports_, slice = beat_bytes_ / ports_;
            done = written_;
            for (uint64_t at = from; at < from + slice; at += params_->burst_bytes)
                done = std::max(done, dram_->access(now, at, true));
        }
        written_ = last ? 0 : done;
        if (last) answers_.push_back({done, bad});
    }

    bool answer_due(int64_t now) const {
        return !answers_.empty() && now >= answers_.front().due && !stalls(B, now);
    }

    bool answer_bad() const { return answers_.front().bad; }
    void answered() { answers_.pop_front(); }

    // The first cycle from `now` on in which a beat or an answer may be offered.
    int64_t next_event(int64_t now) const {
        int64_t at = NEVER;
        if (!reads_.empty()) at = std::max(now, reads_.front().next_due());
        if (!answers_.empty()) at = std::min(at, std::max(now, answers_.front().due));
        return at;
    }

    // As new, at the start of a program: nothing under way, time from its cycle 0 on.
    void restart() {
        reads_.clear(), answers_.clear(), written_ = 0;
        if (params_) dram_.emplace(*params_);
    }

    // A refresh is due or under way in cycle `now`: what waits for data then waits for the refresh.
    bool refreshing(int64_t now) const {
        return dram_ && params_->tREFI && phase(now) < busy_clocks() && now >= interval();
    }

    // The next cycle in which `refreshing` changes.
    int64_t next_refresh(int64_t now) const {
        if (!dram_ || !params_->tREFI) return NEVER;
        int64_t clocks = now >= interval() && phase(now) < busy_clocks() ? busy_clocks() - phase(now)
                                                                         : params_->tREFI - phase(now);
        return now + std::max<int64_t>(1, clocks * params_->tck_ps / params_->core_ps);
    }

    // What the DRAM has done for the accesses so far.
    DramCounters dram_so_far() const { return dram_ ? all_ports(dram_->counters) : DramCounters{}; }

    // What the DRAM did up to cycle `now`; all zero without one.
    DramCounters dram_counters(int64_t now) {
        if (!dram_) return {};
        dram_->settle(now);
        return all_ports(dram_->counters);
    }

private:
    struct Burst {
        uint64_t address;
        uint32_t left, id;
        std::vector<int64_t> due;  // of each beat
        int64_t next_due() const { return due[due.size() - left]; }
    };
    struct Answer {
        int64_t due;
        bool bad;
    };

    int64_t latency_;
    uint32_t beat_bytes_, ports_;
    std::optional<DramParams> params_;
    std::optional<Dram> dram_;
    std::deque<Burst> reads_;
    std::deque<Answer> answers_;
    int64_t written_ = 0;  // when the write burst that is under way is in DRAM so far

    DramCounters all_ports(DramCounters of) const {
        for (int64_t &n : of.commands) n *= ports_;
        for (int64_t *n : {&of.hits, &of.misses, &of.conflicts, &of.data_clocks, &of.refresh_clocks}) *n *= ports_;
        return of;
    }

    int64_t interval() const { return params_->tREFI * params_->tck_ps / params_->core_ps; }
    int64_t phase(int64_t now) const { return now * params_->core_ps / params_->tck_ps % params_->tREFI; }
    int64_t busy_clocks() const { return params_->tRP + params_->tRFC; }

    // The burst whose beat comes next: the oldest, or with stalls at times the oldest of another ID. Several ports carry
    // one ID (rtl/stripe.py).
    size_t next(int64_t now) const {
        if (stalls.probability > 0 && ports_ == 1)
            for (size_t i = 1; i < reads_.size(); i++) {
                bool oldest_of_id = true;
                for (size_t j = 0; j < i; j++) oldest_of_id &= reads_[j].id != reads_[i].id;
                if (oldest_of_id && stalls(ORDER + (int)std::min<size_t>(i, 50), now)) return i;
            }
        return 0;
    }
};

}  // namespace wordline
