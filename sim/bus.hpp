// The memory's side of the AXI4 bus, in time: when each channel is ready, when each beat and each answer comes.
//
// The Verilated run and the cycle model include this very file, so both see the same memory. A read's beats come
// `latency` cycles after its address was taken, or when the DRAM model has them, one a cycle, bursts in the
// order of their addresses. With stalls above zero every channel hesitates, and beats of different IDs
// change places: both are pure functions of seed, channel and cycle.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <limits>
#include <vector>

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

    Bus(int64_t latency, uint32_t beat_bytes) : latency_(latency), beat_bytes_(beat_bytes) {}

    bool ready(Channel channel, int64_t now) const { return !stalls(channel, now); }

    // A read address is taken in cycle `now`.
    void read(int64_t now, uint64_t address, uint32_t beats, uint32_t id) {
        reads_.push_back({address, beats, id, now + latency_});
    }

    // The beat that is offered in cycle `now`, if any; once offered it counts as given.
    bool offer(int64_t now, Beat &beat) {
        if (reads_.empty() || stalls(R, now)) return false;
        auto burst = reads_.begin() + next(now);
        if (now < burst->due) return false;
        beat = {burst->address, burst->id, burst->left == 1};
        burst->address += beat_bytes_;
        if (--burst->left == 0) reads_.erase(burst);
        return true;
    }

    // A write beat is complete, address and data, in cycle `now`; returns nothing, the answer comes by itself.
    void write(int64_t now, uint64_t address, bool last, bool bad) {
        (void)address;
        if (last) answers_.push_back({now + latency_, bad});
    }

    bool answer_due(int64_t now) const {
        return !answers_.empty() && now >= answers_.front().due && !stalls(B, now);
    }

    bool answer_bad() const { return answers_.front().bad; }
    void answered() { answers_.pop_front(); }

    // The first cycle from `now` on in which a beat or an answer may be offered.
    int64_t next_event(int64_t now) const {
        int64_t at = NEVER;
        if (!reads_.empty()) at = std::max(now, reads_.front().due);
        if (!answers_.empty()) at = std::min(at, std::max(now, answers_.front().due));
        return at;
    }

    bool reading() const { return !reads_.empty(); }

    // As new, at the start of a program: nothing under way, time from its cycle 0 on.
    void restart() { reads_.clear(), answers_.clear(); }

private:
    struct Burst {
        uint64_t address;
        uint32_t left, id;
        int64_t due;
    };
    struct Answer {
        int64_t due;
        bool bad;
    };

    int64_t latency_;
    uint32_t beat_bytes_;
    std::deque<Burst> reads_;
    std::deque<Answer> answers_;

    // The burst whose beat comes next: the oldest, or with stalls at times the oldest of another ID.
    size_t next(int64_t now) const {
        if (stalls.probability > 0)
            for (size_t i = 1; i < reads_.size(); i++) {
                bool oldest_of_id = true;
                for (size_t j = 0; j < i; j++) oldest_of_id &= reads_[j].id != reads_[i].id;
                if (oldest_of_id && stalls(ORDER + (int)std::min<size_t>(i, 50), now)) return i;
            }
        return 0;
    }
};

}  // namespace wordline
