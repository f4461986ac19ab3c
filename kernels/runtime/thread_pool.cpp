#include "runtime/thread_pool.h"

#include "isa/processor.h"

namespace localllm {

namespace {

constexpr int kSpins = 4000;  // about 50 microseconds, longer than the gap between two operations

void wait_while(std::atomic<uint32_t>& value, uint32_t old) {
    for (int i = 0; i < kSpins; ++i) {
        if (value.load(std::memory_order_acquire) != old) return;
        pause();
    }
    while (value.load(std::memory_order_acquire) == old) value.wait(old, std::memory_order_acquire);
}

}  // namespace

void Team::barrier() {
    if (size > 1) pool_.arrive();
}

ThreadPool::ThreadPool(int threads) : size_(threads) {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { worker(i); });
}

ThreadPool::~ThreadPool() {
    stopping_ = true;
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
    for (auto& thread : workers_) thread.join();
}

void ThreadPool::run(const std::function<void(Team&)>& work) {
    work_ = &work;
    if (size_ > 1) {
        generation_.fetch_add(1, std::memory_order_release);
        generation_.notify_all();
    }
    Team team(*this, 0, size_);
    call(team);
    team.barrier();
}

// An exception could not be given back: the other threads are at work on what it would unwind.
void ThreadPool::call(Team& team) noexcept {
    (*work_)(team);
}

void ThreadPool::worker(int index) {
    uint32_t seen = 0;
    Team team(*this, index, size_);
    for (;;) {
        wait_while(generation_, seen);
        ++seen;
        if (stopping_) return;
        call(team);
        arrive();
    }
}

void ThreadPool::arrive() {
    const uint32_t phase = phase_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == size_ - 1) {
        arrived_.store(0, std::memory_order_relaxed);
        phase_.fetch_add(1, std::memory_order_release);
        phase_.notify_all();
    } else {
        wait_while(phase_, phase);
    }
}

}  // namespace localllm
