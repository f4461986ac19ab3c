// Worker threads that execute one function together, with barriers in between. A waiting thread spins for a moment,
// then sleeps, so that an idle program costs nothing and crowded cores are yielded.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

namespace localllm {

class ThreadPool;

// One thread's view of the work that all threads share.
class Team {
  public:
    Team(ThreadPool& pool, int index, int size) : index(index), size(size), pool_(pool) {}
    const int index, size;

    void barrier();
    // This thread's part [begin, end) of n items; parts are multiples of `grain`.
    std::pair<int64_t, int64_t> share(int64_t n, int64_t grain = 1) const {
        const int64_t blocks = (n + grain - 1) / grain;
        const int64_t begin = blocks * index / size * grain, end = blocks * (index + 1) / size * grain;
        return {std::min(begin, n), std::min(end, n)};
    }
    // Calls work(i) for the items of [0, n) that this thread is the first to claim from `next`, which starts at 0.
    // They are claimed in runs: long enough to stream, short enough that threads of unequal speed end together.
    template <class Work>
    void claim(std::atomic<int>& next, int n, Work work) const {
        int from = next.load(std::memory_order_relaxed);
        while (from < n) {
            const int to = from + std::max((n - from) / (2 * size), 1);
            if (!next.compare_exchange_weak(from, to, std::memory_order_relaxed)) continue;
            for (int i = from; i < to; ++i) work(i);
            from = next.load(std::memory_order_relaxed);
        }
    }

  private:
    ThreadPool& pool_;
};

class ThreadPool {
  public:
    explicit ThreadPool(int threads);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    int size() const { return size_; }
    // Calls work(team) on every thread, the caller's included; returns when all are done. `work` must not throw.
    void run(const std::function<void(Team&)>& work);

  private:
    friend class Team;
    void call(Team& team) noexcept;
    void worker(int index);
    void arrive();

    const int size_;
    const std::function<void(Team&)>* work_ = nullptr;
    bool stopping_ = false;
    alignas(64) std::atomic<uint32_t> generation_{0};  // counts runs; workers wait for it to change
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<uint32_t> phase_{0};  // counts barriers passed
    std::vector<std::thread> workers_;
};

}  // namespace localllm
