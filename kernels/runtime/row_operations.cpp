// Operations that work on each row alone.
#include <algorithm>
#include <cstring>

#include "runtime/operations.h"

namespace localllm {

void Embed::run(const Kernels&, const Step& step, Team& team) const {
    const Format& f = format(table.type);
    const size_t row_bytes = static_cast<size_t>(table.cols) / f.block * f.bytes;
    const auto [begin, end] = team.share(rows(step));
    for (int64_t row = begin; row < end; ++row) {
        const int from = index == Index::token ? step.tokens[row] : index == Index::position ? step.positions[row] : 0;
        float* to = step.buffers[out] + row * table.cols;
        dequantize(table.type, table.data + row_bytes * from, table.cols, to);
        if (scale != 1.0f)
            for (int i = 0; i < table.cols; ++i) to[i] *= scale;
    }
}

void Norm::run(const Kernels& kernels, const Step& step, Team& team) const {
    const int64_t groups = static_cast<int64_t>(rows(step)) * (width / group);
    const auto [begin, end] = team.share(groups);
    for (int64_t i = begin; i < end; ++i)
        kernels.rms_norm(step.buffers[x] + i * group, weight, step.buffers[out] + i * group, group, eps);
}

void LayerNorm::run(const Kernels& kernels, const Step& step, Team& team) const {
    const auto [begin, end] = team.share(rows(step));
    for (int64_t i = begin; i < end; ++i)
        kernels.layer_norm(step.buffers[x] + i * width, weight, bias, step.buffers[out] + i * width, width, eps);
}

void Rotation::turn(const Step& step, int64_t row, float* head) const {
    const int stride = interleaved ? 2 : 1, partner = interleaved ? 1 : pairs;
    const float* angle = step.rotations[number].data() + row * pairs * 2;
    for (int i = 0; i < pairs; ++i) {
        float& a = head[i * stride];
        float& b = head[i * stride + partner];
        const float c = angle[2 * i], s = angle[2 * i + 1], old = a;
        a = old * c - b * s;
        b = old * s + b * c;
    }
}

void Rope::run(const Kernels&, const Step& step, Team& team) const {
    const auto [begin, end] = team.share(static_cast<int64_t>(rows(step)) * heads);
    for (int64_t item = begin; item < end; ++item) rotation.turn(step, item / heads, step.buffers[x] + item * head_dim);
}

void Act::run(const Kernels& kernels, const Step& step, Team& team) const {
    const auto [begin, end] = team.share(static_cast<int64_t>(rows(step)) * width, 64);
    kernels.act(step.buffers[x] + begin, step.buffers[out] + begin, static_cast<int>(end - begin), kind);
}

void GatedAct::run(const Kernels& kernels, const Step& step, Team& team) const {
    const auto [begin, end] = team.share(static_cast<int64_t>(rows(step)) * width, 64);
    kernels.gated_act(step.buffers[gate] + begin, step.buffers[up] + begin, step.buffers[out] + begin,
                      static_cast<int>(end - begin), kind);
}

void Add::run(const Kernels& kernels, const Step& step, Team& team) const {
    const auto [begin, end] = team.share(static_cast<int64_t>(rows(step)) * width, 64);
    kernels.add_scaled(step.buffers[a] + begin, step.buffers[b] + begin, 1.0f, step.buffers[out] + begin,
                       static_cast<int>(end - begin));
}

void Softcap::run(const Kernels& kernels, const Step& step, Team& team) const {
    const auto [begin, end] = team.share(static_cast<int64_t>(rows(step)) * width, 64);
    kernels.softcap(step.buffers[x] + begin, static_cast<int>(end - begin), cap);
}

void Select::run(const Kernels&, const Step& step, Team& team) const {
    const auto [begin, end] = team.share(step.selected_rows);
    for (int64_t i = begin; i < end; ++i)
        std::memcpy(step.buffers[out] + i * width, step.buffers[x] + static_cast<int64_t>(step.selected[i]) * width,
                    sizeof(float) * width);
}

}  // namespace localllm
