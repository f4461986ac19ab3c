#include "runtime/memory.h"

#include <cstring>

#ifdef _WIN32
#include <malloc.h>
#else
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace localllm {

namespace {
constexpr size_t kHugePage = size_t{2} << 20;
}

#if defined(LOCALLLM_SANITIZE)
// The exact size on the heap, so that the address sanitizer sees what is read or written past the end.
Memory::Memory(size_t bytes) : bytes_(bytes) {
    if (!bytes) return;
    data_ = static_cast<uint8_t*>(::operator new(bytes, std::align_val_t(64)));
    std::memset(data_, 0, bytes);
}
Memory::~Memory() { ::operator delete(data_, std::align_val_t(64)); }
#elif defined(_WIN32)
Memory::Memory(size_t bytes) : bytes_(bytes) {
    if (!bytes) return;
    data_ = static_cast<uint8_t*>(_aligned_malloc(bytes, 64));
    if (!data_) throw std::bad_alloc();
    std::memset(data_, 0, bytes);
}
Memory::~Memory() { _aligned_free(data_); }
#else
// mmap gives zeroed pages that cost nothing until touched; the start is moved up to a huge page's boundary.
Memory::Memory(size_t bytes) : bytes_(bytes) {
    if (!bytes) return;
    if (bytes > SIZE_MAX / 2) throw std::bad_alloc();
    const bool huge = bytes >= 4 * kHugePage;
    const size_t mapped = bytes + (huge ? kHugePage : 0);
    void* start = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) throw std::bad_alloc();
    auto address = reinterpret_cast<uintptr_t>(start);
    if (huge) {
        const uintptr_t aligned = (address + kHugePage - 1) & ~(kHugePage - 1);
        if (aligned > address) munmap(start, aligned - address);
        const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
        const uintptr_t end = (aligned + bytes + page - 1) & ~(page - 1);
        if (address + mapped > end) munmap(reinterpret_cast<void*>(end), address + mapped - end);
        address = aligned;
#ifdef MADV_HUGEPAGE
        madvise(reinterpret_cast<void*>(address), bytes, MADV_HUGEPAGE);
#endif
    }
    data_ = reinterpret_cast<uint8_t*>(address);
}
Memory::~Memory() {
    if (data_) munmap(data_, bytes_);
}
#endif

uint8_t* Arena::take(size_t bytes) {
#ifdef LOCALLLM_SANITIZE
    constexpr size_t block = 0;  // each part on its own
#else
    constexpr size_t block = size_t{64} << 20;  // untouched memory costs nothing
#endif
    bytes = (bytes + 63) & ~size_t{63};
    if (blocks_.empty() || blocks_.back().bytes() - free_at_ < bytes) {
        blocks_.emplace_back(bytes > block ? bytes : block);
        free_at_ = 0;
    }
    uint8_t* part = blocks_.back().data() + free_at_;
    free_at_ += bytes;
    used_ += bytes;
    return part;
}

}  // namespace localllm
