// The paged key/value cache: pages of 32 tokens, shared by every layer under one page number.
#pragma once

#include <cstddef>
#include <cstdint>

#include "quant/format.h"
#include "runtime/memory.h"

namespace localllm {

enum class CacheType : uint8_t { f16, int8 };

constexpr int kPageTokens = 32;

// Inside a page each KV head holds, 64-byte aligned:
//   f16:  keys [head_dim][32] half, values [32][head_dim] half
//   int8: keys [head_dim/4][32][4] bytes stored + 128, key scales float [32],
//         values [32][head_dim] int8, value scales float [32]
// Keys stand with tokens side by side, so that one vector lane is one token; values with features side by side.
struct Cache {
    int layers, kv_heads, head_dim, pages;
    CacheType type;
    size_t value_offset, head_bytes, page_bytes;
    Memory memory;

    Cache(int layers, int kv_heads, int head_dim, int pages, CacheType type)
        : layers(layers), kv_heads(kv_heads), head_dim(head_dim), pages(pages), type(type) {
        const size_t element = type == CacheType::f16 ? 2 : 1;
        const size_t scales = type == CacheType::f16 ? 0 : kPageTokens * sizeof(float);
        value_offset = align64(element * head_dim * kPageTokens + scales);
        head_bytes = 2 * value_offset;
        page_bytes = head_bytes * kv_heads;
        memory = Memory(page_bytes * pages * layers);
    }
    uint8_t* head(int layer, int page, int kv_head) const {
        return memory.data() + (static_cast<size_t>(layer) * pages + page) * page_bytes + head_bytes * kv_head;
    }
    size_t bytes() const { return page_bytes * pages * layers; }
};

}  // namespace localllm
