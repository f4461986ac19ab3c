// A flat program of operations on activation buffers, run in one call per step by all threads together.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "attention/cache.h"
#include "isa/kernels.h"
#include "runtime/adapters.h"
#include "runtime/memory.h"
#include "runtime/squares.h"
#include "runtime/thread_pool.h"

namespace localllm {

// The rows of one sequence in a batch: `length` rows from batch row `start`, after `past` cached tokens.
struct Span {
    int start, length, past;
    const int32_t* table;
    const Adapter* adapter = nullptr;  // null: none
};

// What one step works on. Buffers are float [rows][width].
struct Step {
    const Cache* cache = nullptr;
    int rows = 0, threads = 1;
    const int32_t* tokens = nullptr;
    std::vector<Span> spans;
    std::vector<int32_t> positions;  // [rows]
    const int32_t* selected = nullptr;
    int selected_rows = 0;
    std::vector<float*> buffers;
    std::vector<std::unique_ptr<float[]>> outputs;  // the memory of Program::outputs; the caller may keep it
    uint8_t* scratch = nullptr;                     // of the running operation, shared by the threads
    std::vector<std::vector<float>> rotations;      // of each RotationSpec: [rows][pairs][cos, sin]
    std::vector<AdaptedRows> adapted, adapted_selected;
    Squares* squares = nullptr;            // of what weights are multiplied with; null: nobody asks
    std::atomic<int>* counters = nullptr;  // zero at the start of the step
};

class Operation {
  public:
    virtual ~Operation() = default;
    // Bytes of shared scratch for a step.
    virtual size_t scratch(const Kernels& /*kernels*/, const Step& /*step*/) const { return 0; }
    virtual void run(const Kernels& kernels, const Step& step, Team& team) const = 0;

    bool on_selected = false;  // works on the selected rows only
    int counter = 0;           // first of this operation's two work counters
    int rows(const Step& step) const { return on_selected ? step.selected_rows : step.rows; }
};

// Rows of an embedding, read in place from the file's bytes.
struct Table {
    Type type;
    int rows, cols;
    const uint8_t* data;
};

// A result: a buffer, and how many operations stood before it when it was named.
struct Output {
    std::string name;
    int buffer;
    size_t operations;
};

struct RotationSpec {
    int frequencies;  // id of a vector of inverse frequencies
    float scale;
};

class Program {
  public:
    explicit Program(int threads, const Kernels& kernels = localllm::kernels()) : pool(threads), kernels(kernels) {}

    ThreadPool pool;
    const Kernels& kernels;
    std::deque<PackedMatrix> weights;  // operations point at them while the list grows
    Arena weight_memory;
    std::vector<Table> tables;
    std::vector<std::vector<float>> vectors;
    std::vector<int> widths;  // of the buffers
    std::vector<std::unique_ptr<Operation>> operations;
    std::vector<RotationSpec> rotations;
    std::vector<Output> outputs;                       // each buffer once
    std::map<int, std::unique_ptr<Adapter>> adapters;  // by number; none is given twice
    std::optional<Squares> squares;                    // collected by every run while they are there

    // Packs a weight of GGUF rows on all threads; returns its id.
    int add_weight(PackedMatrix shape, const uint8_t* data);
    // Adds a weight that was packed before; its memory stays the caller's.
    int add_packed(PackedMatrix shape, const uint8_t* packed);
    // Packs weights on all threads for a file: `write` gets parts of it with their offsets, until it returns an error
    // (errno), which is returned; else 0. The weights stand in the order of their offsets, from the first to the end of
    // the last; parts end where huge pages of the file do, the last is filled up with zeros. `checksums` becomes those
    // of the packed weights.
    struct Source {
        PackedMatrix shape;
        const uint8_t* data;
        int64_t offset;
    };
    using Write = std::function<int(const uint8_t* part, size_t bytes, int64_t offset)>;
    int pack_weights(const std::vector<Source>& sources, const Write& write, std::vector<uint64_t>& checksums);
    // The sum of the 64-bit words of some memory, each times an odd number that its place gives: tells whether it is
    // what it was. Read by all threads.
    uint64_t checksum(const uint8_t* data, size_t bytes);
    // Packs an adapter on all threads; returns its number. `rank` is how many rows A has; both are row-major.
    struct AdapterSource {
        int weight, rank;
        const float *a, *b;
    };
    int add_adapter(const std::vector<AdapterSource>& sources);
    // Begins to collect the squares of the weights' inputs, from zero.
    void collect_squares();
    // Adds an operation; `on_selected` is set once a Select has been added.
    void add(std::unique_ptr<Operation> operation);
    void add_output(const std::string& name, int buffer) { outputs.push_back({name, buffer, operations.size()}); }
    // All operations, or only those before an output.
    void run(Step& step, const Output* until = nullptr);

  private:
    void begin_squares();  // zeros for the weights that have none yet
    bool selected_ = false;
    int adapters_made_ = 0;
    Memory arena_, scratch_;
    std::unique_ptr<std::atomic<int>[]> counters_;
};

}  // namespace localllm
