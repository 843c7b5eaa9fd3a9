// The feed-forward of a set of experts in two passes over their weights: hidden = act(gate x, up x), out = sum of w *
// (down hidden).
#include <cstring>

#include "moe/sdk/loops/rows.hpp"
#include "ops.hpp"

namespace moe::cpu {
namespace {

// Columns of the output that one task of the second pass takes when there are many rows: hidden rows are then read
// fewer times.
constexpr int64_t kManyPairs = 256;
constexpr int64_t kDownBlocks = 2;
constexpr int64_t kCombined = kDownBlocks * kBlock;  // columns that are summed over a token's experts at a time
// Blocks of gate that a task of the first pass reads before those of up where there are few rows: from one weight to
// the other memory is idle for a while.
constexpr int64_t kUpBlocks = 8;

// A pair is one (token, j): number token * k + j. Pairs are sorted by expert; those of one expert stay in ascending
// order.
struct Space {
  int32_t* begin;   // [n_experts + 1]: where each expert's pairs begin
  int32_t* pairs;   // [n_pairs]
  int32_t* active;  // [n_experts]: those that have pairs
  char* x;          // the first products' rows, where they are not args.x itself: one a token, or one a pair
  char* gathered;   // of them a RowSet for each expert, or null
  char* hidden;     // a RowSet for each expert
  float* sums;      // of each pair: [n_threads, n_pairs, down_columns()], or [n_pairs, d_model] where the pairs are few
};

int64_t n_pairs_of(const moe_ffn_args& args) { return args.x.shape[0] * (given(args.ids) ? args.ids.shape[1] : 1); }
int64_t down_columns(int64_t n_pairs) { return n_pairs >= kManyPairs ? kDownBlocks * kBlock : kBlock; }

// Rows that both gate and up can read.
RowType input_type(const Kernels& kernels, const moe_ffn_args& args) {
  const RowType gate = row_type(kernels, args.gate->format, args.activation);
  return args.up == nullptr || row_type(kernels, args.up->format, args.activation) == gate ? gate : RowType::kF32;
}

// Whether experts' rows are copied together first, those of the experts that have tiles or all: where there are so many
// that products are the faster for it.
bool gathers(const Kernels& kernels, const moe_ffn_args& args, RowType type) {
  const int64_t n_pairs = n_pairs_of(args);
  if (RowSets(kernels, type, args.gate->n_in).has_tiles()) return n_pairs > kFewRows;
  return kernels.even_rows && type == RowType::kBF16 && given(args.ids) && n_pairs >= 16 * args.n_experts;
}

Space take_space(Arena& arena, const Kernels& kernels, const moe_ffn_args& args) {
  const int64_t n = args.x.shape[0];
  const int64_t n_pairs = n_pairs_of(args);
  const bool on_input = args.weight_on == MOE_WEIGHT_ON_INPUT;
  const RowType type = input_type(kernels, args);
  const bool in_place = !on_input && type == RowType::kF32 && args.activation == MOE_F32;
  const RowType down_type = row_type(kernels, args.down->format, args.activation);
  Space s{};
  s.begin = arena.take<int32_t>(args.n_experts + 1);
  s.pairs = arena.take<int32_t>(n_pairs);
  s.active = arena.take<int32_t>(args.n_experts);
  s.x = in_place ? nullptr : arena.take<char>((on_input ? n_pairs : n) * row_bytes(type, args.gate->n_in));
  const auto sets = [&](RowType rows, int64_t k) {
    return arena.take<char>(RowSets(kernels, rows, k).bytes(n_pairs, args.n_experts));
  };
  s.gathered = gathers(kernels, args, type) ? sets(type, args.gate->n_in) : nullptr;
  s.hidden = sets(down_type, args.width);
  const int64_t whole = std::min(n_pairs, kManyPairs) * args.x.shape[1];
  s.sums = arena.take<float>(std::max(n_threads() * n_pairs * down_columns(n_pairs), whole));
  return s;
}

class Ffn {
 public:
  Ffn(const Kernels& kernels, const moe_ffn_args& args, const Space& space)
      : kernels_(kernels),
        a_(args),
        s_(space),
        n_(args.x.shape[0]),
        d_model_(args.x.shape[1]),
        k_(given(args.ids) ? args.ids.shape[1] : 1),
        on_input_(args.weight_on == MOE_WEIGHT_ON_INPUT),
        x_type_(input_type(kernels, args)),
        hidden_type_(row_type(kernels, args.down->format, args.activation)),
        x_sets_(kernels, x_type_, d_model_),
        hidden_sets_(kernels, hidden_type_, args.width),
        gating_(args.gating) {
    if (args.up == nullptr) gating_.ungated = 1;
  }

  void run() {
    sort_pairs();
    round_input();
    up_pass();
    down_pass();
  }

 private:
  // The group that a pair goes to; -1 if it is not among this call's experts, or beyond the token's count.
  [[nodiscard]] int64_t expert_of(int64_t pair) const {
    if (!given(a_.ids)) return 0;
    const int64_t i = pair / k_;
    const int64_t j = pair % k_;
    if (present(a_.count) && j >= item<int32_t>(a_.count, i)) return -1;
    const int64_t e = row<int32_t>(a_.ids, i)[j] - a_.first_expert;
    return e >= 0 && e < a_.n_experts ? e : -1;
  }
  [[nodiscard]] float weight_of(int64_t pair) const {
    return given(a_.ids) ? at(a_.weights, pair / k_)[pair % k_] : 1.0F;
  }

  void sort_pairs() {
    const int64_t n_pairs = n_ * k_;
    std::fill_n(s_.begin, a_.n_experts + 1, 0);
    for (int64_t p = 0; p < n_pairs; ++p) {
      if (const int64_t e = expert_of(p); e >= 0) ++s_.begin[e + 1];
    }
    for (int64_t e = 0; e < a_.n_experts; ++e) {
      if (s_.begin[e + 1] > 0) s_.active[n_active_++] = static_cast<int32_t>(e);
      s_.begin[e + 1] += s_.begin[e];
    }
    n_used_ = s_.begin[a_.n_experts];
    for (int64_t p = 0; p < n_pairs; ++p) {
      if (const int64_t e = expert_of(p); e >= 0) s_.pairs[s_.begin[e]++] = static_cast<int32_t>(p);
    }
    for (int64_t e = a_.n_experts; e > 0; --e) s_.begin[e] = s_.begin[e - 1];
    s_.begin[0] = 0;
    for (int64_t a = 0; a < n_active_; ++a) gathers_ = gathers_ || is_gathered(s_.active[a]);
  }
  [[nodiscard]] int64_t n_rows(int64_t e) const { return s_.begin[e + 1] - s_.begin[e]; }
  [[nodiscard]] bool is_gathered(int64_t e) const {
    return s_.gathered != nullptr && (!x_sets_.has_tiles() || tiled_rows(n_rows(e)) > 0);
  }
  [[nodiscard]] RowSet gathered(int64_t e) const { return x_sets_.set(s_.gathered, s_.begin[e], e, n_rows(e)); }
  [[nodiscard]] RowSet hidden(int64_t e) const { return hidden_sets_.set(s_.hidden, s_.begin[e], e, n_rows(e)); }

  // x, or w x where the weight is on the input, as the products read it.
  void round_input() {
    if (s_.x == nullptr) {
      x_ = static_cast<const char*>(a_.x.data);
      x_stride_ = a_.x.strides[0] * 4;
      return;
    }
    x_ = s_.x;
    x_stride_ = row_bytes(x_type_, d_model_);
    spread_rows(on_input_ ? n_ * k_ : n_, 4 * d_model_, [&](int64_t r, int32_t) {
      if (on_input_ && expert_of(r) < 0) return;
      kernels_.round(a_.activation, x_type_, at(a_.x, on_input_ ? r / k_ : r), on_input_ ? weight_of(r) : 1.0F, 0,
                     d_model_, d_model_, s_.x + r * x_stride_);
    });
    gather_input();
  }

  void gather_input() {
    if (!gathers_) return;
    spread_rows(n_used_, row_bytes(x_type_, d_model_), [&](int64_t r, int32_t) {
      const int64_t e = expert_of(s_.pairs[r]);
      if (is_gathered(e)) gathered(e).copy(input_of(s_.pairs[r]), r - s_.begin[e]);
    });
  }
  [[nodiscard]] const void* input_of(int64_t pair) const { return x_ + (on_input_ ? pair : pair / k_) * x_stride_; }

  // Work of a pass in bytes of its weights, or the arithmetic's equal.
  [[nodiscard]] int64_t cost(const moe_weight& w) const {
    return w.n_panels * w.panel_bytes * std::max(n_active_, n_used_ / 4);
  }

  void up_pass() {
    const int64_t n_panels = a_.gate->n_panels;
    int64_t take = task_panels(n_panels, n_active_);
    if (a_.activation == MOE_I8) take = std::max<int64_t>(take, 2);  // 32 elements share a scale
    int64_t most = 0;
    for (int64_t a = 0; a < n_active_; ++a) most = std::max(most, n_rows(s_.active[a]));
    const bool more = most <= kFewRows && take == kBlockPanels;
    while (more && take < kUpBlocks * kBlockPanels && n_active_ * n_panels >= 8 * n_threads() * take) take *= 2;
    const int64_t tasks = (n_panels + take - 1) / take;
    spread(n_active_ * tasks, 2 * cost(*a_.gate), [&](int64_t task, int32_t) {
      const int64_t panel = task % tasks * take;
      up_task(s_.active[task / tasks], panel, std::min(take, n_panels - panel));
    });
  }

  // Columns of panels [panel, panel + n_panels) of hidden, for all pairs of an expert.
  void up_task(int64_t e, int64_t panel, int64_t n_panels) const {
    alignas(64) float gate[kMaxRows * kBlock];
    alignas(64) float up[kMaxRows * kBlock];
    const void* rows[kMaxRows];
    const float* gate_bias = present(a_.gate_bias) ? at(a_.gate_bias, e) : nullptr;
    const float* up_bias = a_.up != nullptr && present(a_.up_bias) ? at(a_.up_bias, e) : nullptr;
    const RowSet x = is_gathered(e) ? gathered(e) : RowSet();
    const RowSet hidden = this->hidden(e);
    for (int64_t begin = 0; begin < n_rows(e); begin += kMaxRows) {
      const int32_t* pairs = s_.pairs + s_.begin[e] + begin;
      const int64_t m = std::min(kMaxRows, n_rows(e) - begin);
      for (int64_t r = 0; r < m; ++r) rows[r] = is_gathered(e) ? x.row(begin + r) : input_of(pairs[r]);
      const auto multiply_all = [&](const moe_weight& w, float* c) {
        for (int64_t p = 0; p < n_panels; p += kBlockPanels, c += m * kBlock) {
          const int64_t n = std::min(kBlockPanels, n_panels - p);
          multiply(kernels_, w, e, panel + p, n, x_type_, rows, x.tiles(begin), m, c);
        }
      };
      multiply_all(*a_.gate, gate);
      if (a_.up != nullptr) multiply_all(*a_.up, up);
      float* g = gate;
      float* u = up;
      for (int64_t p = 0; p < n_panels; p += kBlockPanels) {
        const int64_t first = (panel + p) * kPanel;
        const int64_t width = std::min(std::min(kBlockPanels, n_panels - p) * kPanel, a_.width - first);
        for (int64_t r = 0; r < m; ++r, g += kBlock, u += kBlock) {
          if (gate_bias != nullptr) kernels_.add(1.0F, g, 1.0F, gate_bias + first, g, width);
          if (up_bias != nullptr) kernels_.add(1.0F, u, 1.0F, up_bias + first, u, width);
          kernels_.activate(gating_, g, a_.up == nullptr ? nullptr : u, g, width);
          hidden.round(kernels_, a_.activation, g, 1.0F, first, width, begin + r);
        }
      }
    }
  }

  void down_pass() {
    if (reads_whole_experts()) return down_by_expert();
    const int64_t n_panels = a_.down->n_panels;
    const int64_t columns = down_columns(n_ * k_);
    const int64_t take = columns > kBlock ? columns / kPanel : task_panels(n_panels, 1);
    spread((n_panels + take - 1) / take, cost(*a_.down) + 4 * n_ * d_model_, [&](int64_t task, int32_t thread) {
      const int64_t panel = task * take;
      down_task(panel, std::min(take, n_panels - panel), columns, s_.sums + thread * n_ * k_ * columns);
    });
  }

  // Columns of panels [panel, panel + n_panels) of the output, for all tokens.
  void down_task(int64_t panel, int64_t n_panels, int64_t columns, float* sums) const {
    for (int64_t a = 0; a < n_active_; ++a) {
      const bool last = a + 1 == n_active_;
      const int64_t next_panel = std::min(last ? panel + n_panels : panel, a_.down->n_panels - 1);
      const char* next = a_.down->panel(s_.active[last ? 0 : a + 1], next_panel).first;
      down_expert(s_.active[a], panel, n_panels, sums, columns, next);
    }
    const int64_t first = panel * kPanel;
    const int64_t width = std::min(n_panels * kPanel, d_model_ - first);
    for (int64_t i = 0; i < n_; ++i) combine_token(i, first, width, columns, sums);
  }

  // An expert's columns that one task of down_task reads are tens of kilobytes apart from the next expert's, and memory
  // gives less where a thread jumps so often: 69 KiB here and there 19 to 20 GB/s, one after the other 23 to 25 (int8,
  // two threads). With few rows every sum is kept until all are there, so that a thread reads experts from end to end.
  [[nodiscard]] bool reads_whole_experts() const {
    constexpr int64_t kWorthwhileBytes = 1 << 20;  // two microseconds more for the second pass over the sums
    return n_ * k_ <= kManyPairs && cost(*a_.down) >= kWorthwhileBytes;
  }
  void down_by_expert() {
    const int64_t n_panels = a_.down->n_panels;
    const int64_t take = task_panels(n_panels, n_active_);
    const int64_t tasks = (n_panels + take - 1) / take;
    spread(n_active_ * tasks, cost(*a_.down), [&](int64_t task, int32_t) {
      const int64_t panel = task % tasks * take;
      down_expert(s_.active[task / tasks], panel, std::min(take, n_panels - panel), s_.sums + panel * kPanel, d_model_);
    });
    const int64_t lots = (d_model_ + kCombined - 1) / kCombined;
    spread_rows(n_ * lots, 4 * k_ * kCombined, [&](int64_t i, int32_t) {
      const int64_t first = i % lots * kCombined;
      combine_token(i / lots, first, std::min(kCombined, d_model_ - first), d_model_, s_.sums + first);
    });
  }

  // Columns of panels [panel, panel + n_panels) for all pairs of an expert: sums[pair * stride], ... `next`: what is
  // read after them, if not what lies behind.
  void down_expert(int64_t e, int64_t panel, int64_t n_panels, float* sums, int64_t stride,
                   const char* next = nullptr) const {
    alignas(64) float c[kMaxRows * kBlock];
    const void* rows[kMaxRows];
    const int64_t first = panel * kPanel;
    const int64_t width = std::min(n_panels * kPanel, d_model_ - first);
    const float* bias = present(a_.down_bias) ? at(a_.down_bias, e) + first : nullptr;
    const RowSet hidden = this->hidden(e);
    for (int64_t begin = 0; begin < n_rows(e); begin += kMaxRows) {
      const int32_t* pairs = s_.pairs + s_.begin[e] + begin;
      const int64_t m = std::min(kMaxRows, n_rows(e) - begin);
      for (int64_t r = 0; r < m; ++r) rows[r] = hidden.row(begin + r);
      for (int64_t p = 0; p < n_panels; p += kBlockPanels) {
        const int64_t n = std::min(kBlockPanels, n_panels - p);
        multiply(kernels_, *a_.down, e, panel + p, n, hidden_type_, rows, hidden.tiles(begin), m, c,
                 p + n < n_panels ? nullptr : next);
        const int64_t left = std::min(n * kPanel, width - p * kPanel);
        for (int64_t r = 0; r < m; ++r) {
          float* to = sums + pairs[r] * stride + p * kPanel;
          kernels_.add(1.0F, c + r * kBlock, 1.0F, bias == nullptr ? nullptr : bias + p * kPanel, to, left);
        }
      }
    }
  }

  // The weighted sum over j in ascending order, whatever the order of the experts.
  void combine_token(int64_t i, int64_t first, int64_t width, int64_t stride, const float* sums) const {
    alignas(64) float y[kCombined] = {};
    for (int64_t pair = i * k_; pair < (i + 1) * k_; ++pair) {
      if (expert_of(pair) >= 0) kernels_.axpy(on_input_ ? 1.0F : weight_of(pair), sums + pair * stride, y, width);
    }
    float scale = a_.scale;
    if (present(a_.row_gate)) scale *= static_cast<float>(loops::sigmoid(item<float>(a_.row_gate, i)));
    float* out = at(a_.out, i) + first;
    kernels_.add(scale, y, 1.0F, a_.accumulate != 0 ? out : nullptr, out, width);
  }

  const Kernels& kernels_;
  const moe_ffn_args& a_;
  const Space& s_;
  int64_t n_;
  int64_t d_model_;
  int64_t k_;
  bool on_input_;
  RowType x_type_;
  RowType hidden_type_;
  RowSets x_sets_;
  RowSets hidden_sets_;
  moe_gating gating_;
  const char* x_ = nullptr;  // the first products' rows
  int64_t x_stride_ = 0;     // bytes from row to row
  int64_t n_active_ = 0;
  int64_t n_used_ = 0;    // pairs that have an expert
  bool gathers_ = false;  // whether any expert's rows are copied together
};

uint64_t ffn_workspace(const Kernels& kernels, const moe_ffn_args& args) {
  Arena arena;
  take_space(arena, kernels, args);
  return arena.used();
}

Status expect_weight(const moe_weight* w, std::string_view name, int64_t groups, int64_t n_out, int64_t n_in) {
  if (w == nullptr) return invalid(std::string(name) + ": expected a weight, got none");
  if (w->n_groups == groups && w->n_out == n_out && w->n_in == n_in) return {};
  const auto text = [](int64_t a, int64_t b, int64_t c) {
    return std::to_string(a) + " x [" + std::to_string(b) + ", " + std::to_string(c) + "]";
  };
  return invalid(std::string(name) + ": expected " + text(groups, n_out, n_in) + ", got " +
                 text(w->n_groups, w->n_out, w->n_in));
}

Status ffn(const Kernels& kernels, const moe_ffn_args& args) {
  MOE_TRY(loops::check_activation(args.activation));
  MOE_TRY(loops::check_gating(args.gating));
  const int64_t n = args.x.shape[0];
  const int64_t d_model = args.x.shape[1];
  MOE_TRY(expect_weight(args.gate, "gate", args.n_experts, args.width, d_model));
  if (args.up != nullptr) MOE_TRY(expect_weight(args.up, "up", args.n_experts, args.width, d_model));
  if (args.up == nullptr && args.gating.ungated == 0)
    return invalid("up: expected a weight with a gated activation, got none");
  MOE_TRY(expect_weight(args.down, "down", args.n_experts, d_model, args.width));
  if (n_pairs_of(args) > std::numeric_limits<int32_t>::max())
    return loops::bad("ids", "at most 2^31 - 1 pairs", n_pairs_of(args));
  if (n == 0) return {};
  Arena arena(args.header);
  const Space space = take_space(arena, kernels, args);
  MOE_TRY(arena.check());
  Ffn(kernels, args, space).run();
  return {};
}

constexpr OpRow kOps[] = {op_row<moe_ffn_args, ffn, ffn_workspace>(MOE_OP_FFN)};

}  // namespace

std::span<const OpRow> ffn_ops() { return kOps; }

}  // namespace moe::cpu
