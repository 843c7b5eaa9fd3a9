#include "fused.hpp"

#include "kernels/chain.hpp"
#include "kernels/gate.hpp"

namespace moe::cuda {
namespace {

bool is(const char* id, const char* op) { return std::string_view(id) == op; }

template <typename Args>
const Args& as(const moe_op_args* args) {
  return *reinterpret_cast<const Args*>(args);
}

Error none() { return unimplemented("fused: no faster way"); }

// Norms, rotary embeddings and stores token by token in one launch, then attention where it comes last.
class Chain final : public FusedOp {
 public:
  static bool takes(const char* id) { return is(id, MOE_OP_NORM) || is(id, MOE_OP_ROPE) || is(id, MOE_OP_CACHE_STORE); }

  static bool matches(std::span<const char* const> ids) {
    const size_t n = !ids.empty() && is(ids.back(), MOE_OP_ATTENTION) ? ids.size() - 1 : ids.size();
    if (n < 2 || n > kChainSteps) return false;
    for (size_t i = 0; i < n; ++i) {
      if (!takes(ids[i])) return false;
    }
    return true;
  }

  static Result<std::unique_ptr<FusedOp>> make(const Context& context, std::span<const char* const> ids,
                                               std::span<const moe_op_args* const> largest) {
    auto chain = std::make_unique<Chain>();
    int64_t pairs = 0;
    for (size_t i = 0; i < ids.size(); ++i) {
      const OpRow* row = find_op_row(ids[i]);
      MOE_ASSIGN(const Found found, row->find(context, *largest[i]));
      chain->rows_.push_back(row);
      chain->workspace_bytes_ = std::max(chain->workspace_bytes_, found.workspace_bytes);
      if (is(ids[i], MOE_OP_ROPE)) pairs += as<moe_rope_args>(largest[i]).inv_freq.shape[0];
      if (is(ids[i], MOE_OP_NORM) && as<moe_norm_args>(largest[i]).residual.ndim > 0) return none();
    }
    if (pairs > kChainPairs) return none();
    return std::unique_ptr<FusedOp>(std::move(chain));
  }

  [[nodiscard]] Found found() const override { return {"chain", workspace_bytes_}; }

  Status run(const Context& context, const moe_op_args* const* args, void* workspace, uint64_t workspace_bytes,
             cudaStream_t stream) const override {
    ChainParams p{};
    p.pdl = context.pdl;
    for (size_t i = 0; i < rows_.size(); ++i) {
      if (!takes(rows_[i]->id)) continue;
      ChainStep& step = p.steps[p.n_steps++];
      if (is(rows_[i]->id, MOE_OP_NORM)) {
        step.kind = ChainStep::kNorm;
        step.norm = norm_params(as<moe_norm_args>(args[i]));
        p.n = step.norm.n;
      } else if (is(rows_[i]->id, MOE_OP_ROPE)) {
        step.kind = ChainStep::kRope;
        step.rope = rope_params(as<moe_rope_args>(args[i]));
        p.n = step.rope.n;
      } else {
        step.kind = ChainStep::kStore;
        step.store = cache_store_params(as<moe_cache_store_args>(args[i]));
        p.n = step.store.n;
      }
    }
    MOE_CUDA_TRY(launch_chain(p, stream));
    if (takes(rows_.back()->id)) return {};
    auto attention = as<moe_attention_args>(args[rows_.size() - 1]);
    attention.header.workspace = workspace;
    attention.header.workspace_bytes = workspace_bytes;
    return rows_.back()->run(context, attention.header, stream);
  }

 private:
  std::vector<const OpRow*> rows_;
  uint64_t workspace_bytes_ = 0;
};

// A norm and the product of what it gives: for few rows in one launch, whose blocks each find the norm again while
// their weights are on the way; for many the norm writes what the product reads.
class NormProduct final : public FusedOp {
 public:
  static bool matches(std::span<const char* const> ids) {
    return ids.size() == 2 && is(ids[0], MOE_OP_NORM) && is(ids[1], MOE_OP_MATMUL);
  }

  static Result<std::unique_ptr<FusedOp>> make(const Context& context, std::span<const moe_op_args* const> largest,
                                               uint32_t temporary) {
    const auto& norm = as<moe_norm_args>(largest[0]);
    const auto& product = as<moe_matmul_args>(largest[1]);
    // The sums of the norm are in another order than the norm's own.
    if (context.deterministic || norm.kind != MOE_NORM_RMS || !loops::given(norm.weight) ||
        loops::given(norm.residual) || norm.x.ndim != 2) {
      return none();
    }
    auto fused = std::make_unique<NormProduct>();
    fused->norm_ = find_op_row(MOE_OP_NORM);
    fused->product_ = find_op_row(MOE_OP_MATMUL);
    fused->rows_are_read_ = (temporary & 1U) == 0;
    MOE_ASSIGN(const Found of_norm, fused->norm_->find(context, *largest[0]));
    MOE_ASSIGN(const Found found, fused->product_->find(context, *largest[1]));
    MatvecParams p = matvec_params(context, product);
    p.norm_weight = data_of<float>(norm.weight);
    if (!matvec_takes_norm(p)) return none();
    fused->workspace_bytes_ = std::max(of_norm.workspace_bytes, found.workspace_bytes);
    return std::unique_ptr<FusedOp>(std::move(fused));
  }

  [[nodiscard]] Found found() const override { return {"norm in product", workspace_bytes_}; }

  Status run(const Context& context, const moe_op_args* const* args, void* workspace, uint64_t workspace_bytes,
             cudaStream_t stream) const override {
    const auto& norm = as<moe_norm_args>(args[0]);
    auto product = as<moe_matmul_args>(args[1]);
    product.header.workspace = workspace;
    product.header.workspace_bytes = workspace_bytes;
    if (norm.x.shape[0] > kMostNormedRows && !rows_are_read_ && takes_narrow_rows(context, product)) {
      NormParams p = norm_params(norm);
      p.pdl = context.pdl;
      return run_normed_matmul(context, p, product, stream);
    }
    if (norm.x.shape[0] > kMostNormedRows) {
      MOE_TRY(norm_->run(context, *args[0], stream));
      return product_->run(context, product.header, stream);
    }
    MatvecParams p = matvec_params(context, product);
    p.x = data_of<float>(norm.x);
    p.x_row = norm.x.strides[0];
    p.x_group = 0;
    p.norm_weight = data_of<float>(norm.weight);
    p.norm_eps = norm.eps;
    if (rows_are_read_) {
      p.normed = data_of<float>(norm.out);
      p.normed_row = norm.out.strides[0];
    }
    Space space(product.header);
    p.workspace = space.take<char>(static_cast<int64_t>(matvec_workspace(p)));
    MOE_TRY(space.check());
    MOE_CUDA_TRY(launch_matvec(p, stream));
    return {};
  }

 private:
  const OpRow* norm_ = nullptr;
  const OpRow* product_ = nullptr;
  bool rows_are_read_ = true;
  uint64_t workspace_bytes_ = 0;
};

bool same_rows(const moe_tensor& a, const moe_tensor& b) {
  return a.data == b.data && a.shape[0] == b.shape[0] && a.shape[1] == b.shape[1] && a.strides[0] == b.strides[0];
}

// A gate, from the norm before it (or without one) to the decision: for few rows in one launch.
class Gate final : public FusedOp {
 public:
  static bool matches(std::span<const char* const> ids) {
    const bool normed = ids.size() == 3 && is(ids[0], MOE_OP_NORM);
    const size_t at = normed ? 1 : 0;
    return ids.size() == at + 2 && is(ids[at], MOE_OP_MATMUL) && is(ids[at + 1], MOE_OP_ROUTE);
  }

  static Result<std::unique_ptr<FusedOp>> make(const Context& context, std::span<const moe_op_args* const> largest,
                                               uint32_t temporary) {
    if (context.deterministic || !context.pdl) return none();
    auto gate = std::make_unique<Gate>();
    gate->normed_ = largest.size() == 3;
    const size_t product_at = gate->normed_ ? 1 : 0;
    if (gate->normed_) {
      MOE_ASSIGN(gate->before_, NormProduct::make(context, largest.first(2), temporary));
      gate->normed_are_read_ = (temporary & 1U) == 0;
      gate->workspace_bytes_ = gate->before_->found().workspace_bytes;
    } else {
      MOE_ASSIGN(const Found found, find_op_row(MOE_OP_MATMUL)->find(context, *largest[0]));
      gate->workspace_bytes_ = found.workspace_bytes;
    }
    gate->logits_are_read_ = (temporary >> product_at & 1U) == 0;
    MOE_TRY(find_op_row(MOE_OP_ROUTE)->find(context, *largest[product_at + 1]));
    if (!gate_fits(gate->params(context, largest.data()))) return none();
    return std::unique_ptr<FusedOp>(std::move(gate));
  }

  [[nodiscard]] Found found() const override { return {"gate", workspace_bytes_}; }

  Status run(const Context& context, const moe_op_args* const* args, void* workspace, uint64_t workspace_bytes,
             cudaStream_t stream) const override {
    const GateParams p = params(context, args);
    if (p.product.n == 0) return {};
    if (!follows(args) || !gate_takes(p)) return one_by_one(context, args, workspace, workspace_bytes, stream);
    MOE_CUDA_TRY(launch_gate(p, stream));
    return {};
  }

 private:
  // Whether each operation reads what the one before it writes, and no place is written while it is read.
  [[nodiscard]] bool follows(const moe_op_args* const* args) const {
    const auto& product = as<moe_matmul_args>(args[normed_ ? 1 : 0]);
    const auto& route = as<moe_route_op_args>(args[normed_ ? 2 : 1]);
    if (!same_rows(product.out, route.logits)) return false;
    if (!normed_) return true;
    const auto& norm = as<moe_norm_args>(args[0]);
    return same_rows(norm.out, product.x) && norm.out.data != norm.x.data;
  }

  [[nodiscard]] GateParams params(const Context& context, const moe_op_args* const* args) const {
    const auto& product = as<moe_matmul_args>(args[normed_ ? 1 : 0]);
    GateParams p{matvec_params(context, product), route_params(as<moe_route_op_args>(args[normed_ ? 2 : 1]))};
    if (!logits_are_read_) p.product.out = nullptr;
    if (!normed_) return p;
    const auto& norm = as<moe_norm_args>(args[0]);
    p.product.x = data_of<float>(norm.x);
    p.product.x_row = norm.x.strides[0];
    p.product.norm_weight = data_of<float>(norm.weight);
    p.product.norm_eps = norm.eps;
    if (normed_are_read_) {
      p.product.normed = data_of<float>(norm.out);
      p.product.normed_row = norm.out.strides[0];
    }
    return p;
  }

  Status one_by_one(const Context& context, const moe_op_args* const* args, void* workspace, uint64_t workspace_bytes,
                    cudaStream_t stream) const {
    if (normed_) {
      MOE_TRY(before_->run(context, args, workspace, workspace_bytes, stream));
    } else {
      auto product = as<moe_matmul_args>(args[0]);
      product.header.workspace = workspace;
      product.header.workspace_bytes = workspace_bytes;
      MOE_TRY(find_op_row(MOE_OP_MATMUL)->run(context, product.header, stream));
    }
    return find_op_row(MOE_OP_ROUTE)->run(context, *args[normed_ ? 2 : 1], stream);
  }

  std::unique_ptr<FusedOp> before_;  // norm and product
  bool normed_ = false;
  bool normed_are_read_ = true;
  bool logits_are_read_ = true;
  uint64_t workspace_bytes_ = 0;
};

}  // namespace

Result<std::unique_ptr<FusedOp>> FusedOp::find(const Context& context, std::span<const char* const> ids,
                                               std::span<const moe_op_args* const> largest, uint32_t temporary) {
  if (Chain::matches(ids)) return Chain::make(context, ids, largest);
  if (NormProduct::matches(ids)) return NormProduct::make(context, largest, temporary);
  if (Gate::matches(ids)) return Gate::make(context, largest, temporary);
  return none();
}

}  // namespace moe::cuda
