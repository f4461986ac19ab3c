// The paged key/value cache: pages of 32 tokens, shared by every layer under one page number.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "quant/format.h"
#include "runtime/memory.h"

namespace localllm {

enum class CacheType : uint8_t { f32, f16, int8 };

constexpr int kCacheTypes = 3;
constexpr const char* kCacheTypeNames[kCacheTypes] = {"f32", "f16", "int8"};

// Bytes of one number.
constexpr size_t number_bytes(CacheType type) {
    return type == CacheType::f32 ? 4 : type == CacheType::f16 ? 2 : 1;
}

constexpr int kMaxHeadDim = 512;
constexpr int kPageTokens = 32;
constexpr int kExtentPages = 16;

// Of each KV head a page holds, 64-byte aligned:
//   f32, f16: keys [head_dim][32]; values [32][head_dim]
//   int8:     keys [head_dim/4][32][4] bytes stored + 128, key scales float [32];
//             values [32/4][head_dim][4] int8, value scales float [32]
// Keys stand with tokens side by side, so that one vector lane is one token; values with features side by side. Bytes
// stand by fours, as integer dot products take them: of features for keys, of tokens for values.
//
// Pages come in extents [layer][kv_head][keys, values][page]: the keys of neighbouring pages follow one another, and so
// do the values, so that a history whose pages were taken in order is read as a few long streams. Blocks of 4 KB in
// random places read at a third of the speed. The layers stand together, so that a short text fills few huge pages.
struct Cache {
    int layers, kv_heads, head_dim, pages;
    CacheType type;
    size_t part_bytes, page_bytes;  // the keys, or the values, of a head in a page; a page of one layer
    Memory memory;

    Cache(int layers, int kv_heads, int head_dim, int pages, CacheType type)
        : layers(layers), kv_heads(kv_heads), head_dim(head_dim), pages(pages), type(type) {
        const size_t scales = type == CacheType::int8 ? kPageTokens * sizeof(float) : 0;
        part_bytes = align64(number_bytes(type) * head_dim * kPageTokens + scales);
        page_bytes = 2 * part_bytes * kv_heads;
        memory = Memory(bytes());
        memory.use_huge_pages();
    }
    uint8_t* keys(int layer, int page, int kv_head) const { return part(layer, page, 2 * kv_head); }
    uint8_t* values(int layer, int page, int kv_head) const { return part(layer, page, 2 * kv_head + 1); }
    void copy_page(int source, int target) {
        for (int layer = 0; layer < layers; ++layer)
            for (int i = 0; i < 2 * kv_heads; ++i)
                std::memmove(part(layer, target, i), part(layer, source, i), part_bytes);
    }
    size_t bytes() const { return page_bytes * pages * layers; }

  private:
    uint8_t* part(int layer, int page, int index) const {
        const int extent = page - page % kExtentPages;  // its first page; the last extent may be smaller
        const int width = pages - extent < kExtentPages ? pages - extent : kExtentPages;
        const size_t before = static_cast<size_t>(extent) * layers + static_cast<size_t>(layer) * width;  // pages
        return memory.data() + before * page_bytes +
               (static_cast<size_t>(index) * width + page % kExtentPages) * part_bytes;
    }
};

}  // namespace localllm
