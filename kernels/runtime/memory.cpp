#include "runtime/memory.h"

#include <cerrno>
#include <cstring>

#ifdef _WIN32
#include <malloc.h>
#else
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

namespace localllm {

#if defined(LOCALLLM_SANITIZE)
// The exact size on the heap, so that the address sanitizer sees what is read or written past the end.
Memory::Memory(size_t bytes) : bytes_(bytes) {
    if (!bytes) return;
    data_ = static_cast<uint8_t*>(::operator new(bytes, std::align_val_t(64)));
    std::memset(data_, 0, bytes);
}
void Memory::use_huge_pages() {}
Memory::~Memory() {
    ::operator delete(data_, std::align_val_t(64));
}
#elif defined(_WIN32)
Memory::Memory(size_t bytes) : bytes_(bytes) {
    if (!bytes) return;
    data_ = static_cast<uint8_t*>(_aligned_malloc(bytes, 64));
    if (!data_) throw std::bad_alloc();
    std::memset(data_, 0, bytes);
}
void Memory::use_huge_pages() {}
Memory::~Memory() {
    _aligned_free(data_);
}
#else
// mmap gives zeroed pages that cost nothing until touched. Weights in memory do not ask for huge pages: clearing them
// as weights are packed can take longer than the packing (docs/architecture.md).
Memory::Memory(size_t bytes) : bytes_(bytes) {
    if (!bytes) return;
    if (bytes > SIZE_MAX / 2) throw std::bad_alloc();
    void* start = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) throw std::bad_alloc();
    data_ = static_cast<uint8_t*>(start);
}
void Memory::use_huge_pages() {
#ifdef MADV_HUGEPAGE
    if (data_) madvise(data_, bytes_, MADV_HUGEPAGE);
#endif
}
Memory::~Memory() {
    if (data_) munmap(data_, bytes_);
}
#endif

#ifdef _WIN32
uint8_t* map_file(int, size_t) {
    errno = ENOSYS;
    return nullptr;
}
void unmap_file(uint8_t*, size_t) {}
#else
uint8_t* map_file(int file, size_t bytes) {
    struct stat status;
    if (fstat(file, &status)) return nullptr;
    if (static_cast<uint64_t>(status.st_size) < bytes) {
        errno = EINVAL;
        return nullptr;
    }
    // Room for a start at a multiple of a huge page; what lies before and after it is given back.
    const size_t room = bytes + kHugePage;
    void* start = mmap(nullptr, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) return nullptr;
    uint8_t* first = static_cast<uint8_t*>(start);
    uint8_t* data = first + (kHugePage - reinterpret_cast<uintptr_t>(first) % kHugePage) % kHugePage;
    if (mmap(data, bytes, PROT_READ, MAP_SHARED | MAP_FIXED, file, 0) == MAP_FAILED) {
        const int error = errno;
        munmap(first, room);
        errno = error;
        return nullptr;
    }
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    uint8_t* end = data + (bytes + page - 1) / page * page;
    if (data > first) munmap(first, static_cast<size_t>(data - first));
    if (first + room > end) munmap(end, static_cast<size_t>(first + room - end));
#ifdef MADV_HUGEPAGE
    madvise(data, bytes, MADV_HUGEPAGE);  // a wish: without it the mapping is right all the same
#endif
    return data;
}
void unmap_file(uint8_t* data, size_t bytes) {
    munmap(data, bytes);
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
    return part;
}

}  // namespace localllm
