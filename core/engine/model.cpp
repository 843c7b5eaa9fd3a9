#include "core/engine/model.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "core/engine/memory_plan.hpp"
#include "core/engine/recording.hpp"
#include "core/model/architecture/architecture.hpp"
#include "core/model/checkpoint/usable_memory.hpp"
#include "core/model/files/model_files.hpp"

namespace patchbay {
namespace {

namespace fs = std::filesystem;

// What `precision` means: how prepared weights are kept and what products round their activations to. `auto` and fp32 keep weights as they
// are stored (losslessly) and compute in f32; the others trade accuracy for speed and memory.
moe::Result<Precision> precision_of(const std::string& name) {
  if (name == "auto" || name == "fp32") return Precision{"auto", MOE_F32};
  if (name == "bf16") return Precision{"bf16", MOE_BF16};
  if (name == "fp16") return Precision{"f16", MOE_F16};
  if (name == "int8") return Precision{"int8", MOE_I8};
  if (name == "int4") return Precision{"int4", MOE_I8};
  if (name == "fp8") return Precision{"fp8", MOE_BF16};
  return moe::invalid(fmt::format("model.precision: expected auto | fp32 | fp16 | bf16 | int8 | int4 | fp8, got \"{}\"", name));
}

int32_t cache_dtype_of(const EngineSettings& engine, const Precision& precision) {
  if (engine.cache_dtype == "f32") return MOE_F32;
  if (engine.cache_dtype == "f16") return MOE_F16;
  if (engine.cache_dtype == "bf16") return MOE_BF16;
  return precision.activation == MOE_F32 ? MOE_F32 : MOE_BF16;
}

// Few people want the longest context of a model at all times, and its cache may be larger than the model; this is what a request may hold
// unless the configuration says more.
constexpr int64_t kDefaultContext = 8192;

struct Layer {
  StepDevice* attention_device = nullptr;
  StepDevice* expert_device = nullptr;
  std::unique_ptr<AttentionPart> attention;
  std::unique_ptr<FeedForwardPart> ffn;
  size_t input_slot = 0;  // a copy of the layer's input, where the router wants it
};

class LoadedModel final : public Model {
 public:
  moe::Status build(const Settings& settings, ModelFiles& files, std::shared_ptr<PluginRegistry> registry, Host& host,
                    const LoadProgress& progress);
  moe::Result<ModelOutline> outline(const Settings& settings, ModelSpec spec, const Checkpoint* checkpoint, std::shared_ptr<PluginRegistry> registry,
                                    Host& host);
  moe::Result<float*> forward(const Batch& batch) override;
  moe::Result<const int32_t*> forward_to_largest(const Batch& batch) override;
  PlanView plan(int64_t moe_layer) override;
  moe::Result<std::span<const float>> plan_weights(int64_t moe_layer) override;
  std::vector<Device*> devices() override {
    std::vector<Device*> out;
    for (auto& d : step_devices_) out.push_back(&d->device());
    return out;
  }

 private:
  // Whether the host does not see the memory that logits are in.
  [[nodiscard]] bool results_are_far() const { return !main_->device().host_visible(); }
  moe::Result<StepDevice*> device_named(const std::string& name, const Settings& settings, Host& host);
  [[nodiscard]] MemoryNeeds needs_of(const EngineSettings& e) const;
  moe::Result<int64_t> cache_tokens(const Settings& settings) const;
  [[nodiscard]] PackedCacheOptions packed_cache_options(const Settings& settings) const;
  moe::Status size_cache(const Settings& settings);
  moe::Status build_layers(const Settings& settings, Host& host, BuildContext& ctx);
  moe::Status build_head(BuildContext& ctx);
  moe::Status build_all(const Settings& settings, Host& host, WeightLoader& loader);
  moe::Status count_bytes(const Checkpoint& checkpoint);
  moe::Status run_layers(StepRecorder& recorder);
  moe::Status run_head();
  moe::Status find_largest();
  moe::Status run(StepRecorder& recorder, bool largest);
  // One step, whose results reach the host with it.
  moe::Status step(const Batch& batch, bool largest);
  moe::Status fetch_results(bool largest);
  [[nodiscard]] moe_tensor logits() const;
  [[nodiscard]] bool can_record() const;
  void note_cuts();
  moe::Status copy_between(StepDevice& from_device, const moe_tensor& from, StepDevice& to_device, const moe_tensor& to);
  moe::Status move_to(StepDevice*& current, StepDevice* next);

  // Declared in the order in which they depend on each other: plugins outlive devices, devices outlive weights.
  std::shared_ptr<PluginRegistry> registry_;
  std::vector<std::unique_ptr<Device>> devices_;
  std::vector<std::unique_ptr<StepDevice>> step_devices_;
  std::shared_ptr<const Checkpoint> checkpoint_;
  std::unique_ptr<PackedCaches> packed_;
  StepDevice* main_ = nullptr;  // embedding, head
  Precision precision_;
  PreparedWeight embedding_;
  moe_embed_args embed_args_{};
  moe::Op embed_op_, gather_op_;
  Norm output_norm_;
  NormedProduct normed_head_;
  PreparedWeight head_weight_;
  moe_matmul_args head_args_{};
  moe::Op head_op_;
  moe_argmax_args largest_args_{};
  moe::Op largest_op_;
  Buffer head_bias_, largest_, host_largest_;
  size_t gathered_slot_ = 0, logits_slot_ = 0;
  std::vector<Layer> layers_parts_;
  std::vector<FeedForwardPart*> moe_parts_;
  std::vector<StepDevice*> moe_devices_;
  Recordings recordings_;
  Buffer host_logits_;
  std::vector<float> staging_;
  std::vector<int32_t> plan_ids_;
  std::vector<float> plan_weights_;
};

moe::Result<StepDevice*> LoadedModel::device_named(const std::string& wanted, const Settings& settings, Host& host) {
  std::string name = wanted;
  const PluginChoice* choice = nullptr;
  for (const auto& b : settings.backends) {
    if (b.plugin == wanted) choice = &b;
  }
  Component<moe_backend> component;
  if (name == "auto") {
    int32_t best = 0;
    std::string reasons;
    for (const auto& candidate : registry_->names("backend")) {
      MOE_ASSIGN(auto found, registry_->backend(candidate));
      std::string reason;
      const int32_t score = backend_score(found, &reason);
      if (!reason.empty()) reasons += fmt::format("; {}: {}", candidate, reason);
      if (score <= best) continue;
      best = score;
      name = candidate;
      component = std::move(found);
    }
    if (best == 0) return moe::not_found(fmt::format("backend \"auto\": expected one that can run on this machine, got none{}", reasons));
  }
  for (size_t i = 0; i < devices_.size(); ++i) {
    if (devices_[i]->name() == name) return step_devices_[i].get();
  }
  if (component.table == nullptr) {
    MOE_ASSIGN(component, registry_->backend(name));
  }
  MOE_ASSIGN(auto device, Device::open(std::move(component), choice == nullptr ? std::vector<GivenOption>{} : choice->options, host));
  devices_.push_back(std::move(device));
  step_devices_.push_back(std::make_unique<StepDevice>(*devices_.back()));
  return step_devices_.back().get();
}

MemoryNeeds LoadedModel::needs_of(const EngineSettings& e) const {
  return memory_needs(*checkpoint_, spec_, precision_, cache_element_bytes(cache_dtype_of(e, precision_)), limits_.max_tokens, limits_.max_sequences);
}

// Tokens that the cache is to hold. On a device that says how much memory it has, whether the model fits is found out here; the default
// there is the whole context for every sequence, or what is left.
moe::Result<int64_t> LoadedModel::cache_tokens(const Settings& settings) const {
  const EngineSettings& e = settings.engine;
  const uint64_t free_bytes = main_->device().description().free_bytes;
  if (free_bytes == 0) return e.cache_tokens > 0 ? e.cache_tokens : std::max(context_, std::min(context_ * e.batch_size, kDefaultContext));
  const MemoryNeeds needs = needs_of(e);
  const int64_t wanted = e.cache_tokens > 0 ? e.cache_tokens : context_ * e.batch_size;
  return cache_tokens_that_fit(needs, free_bytes, wanted, e.cache_tokens > 0 ? e.cache_tokens : context_, main_->device().name());
}

moe::Status LoadedModel::size_cache(const Settings& settings) {
  const EngineSettings& e = settings.engine;
  if (settings.model.context > spec_.context) {
    return moe::invalid(fmt::format("model.context: expected at most {} (the model's own), got {}", spec_.context, settings.model.context));
  }
  const int64_t usual = spec_.original_context > 0 ? spec_.original_context : kDefaultContext;
  context_ = settings.model.context > 0 ? settings.model.context : std::min(spec_.context, usual);
  if (settings.model.context == 0 && spec_.context > usual) {
    notes_.push_back(fmt::format("context: {} of the model's {} tokens; model.context raises it{}", context_, spec_.context,
                                 spec_.original_context > 0 ? ", with the rotary frequencies of long texts" : ""));
  }
  limits_.page_tokens = e.page_tokens;
  limits_.max_sequences = e.batch_size;
  limits_.max_tokens = std::max(e.batch_tokens, e.batch_size);
  limits_.max_pages = (context_ + e.page_tokens - 1) / e.page_tokens;
  MOE_ASSIGN(const int64_t wanted, cache_tokens(settings));
  limits_.n_pages = std::max<int64_t>(1, (wanted + e.page_tokens - 1) / e.page_tokens);
  if (limits_.n_pages < limits_.max_pages) {
    context_ = limits_.n_pages * e.page_tokens;
    limits_.max_pages = limits_.n_pages;
    notes_.push_back(fmt::format("context: {} tokens, which is what engine.cache_tokens holds", context_));
  }
  // Rows of logits in a step: one a sequence in service; whoever wants those of every token takes them in chunks.
  max_logit_rows_ = limits_.max_sequences;
  return {};
}

moe::Status LoadedModel::build_layers(const Settings& settings, Host& host, BuildContext& ctx) {
  const auto n_layers = static_cast<int64_t>(spec_.layers.size());
  for (const auto& o : settings.layers) {
    if (o.first >= n_layers) {
      return moe::invalid(fmt::format("{}: layer.match: expected layers in [0, {}], got {}", o.where, n_layers - 1, o.first));
    }
  }
  const FeedForwardPart* previous = nullptr;
  for (int64_t l = 0; l < n_layers; ++l) {
    ctx.layer = l;
    const FeedForwardSpec& ffn = spec_.layers[static_cast<size_t>(l)].ffn;
    std::vector<const PluginChoice*> routers, experts;
    if (settings.router) routers.push_back(&*settings.router);
    if (settings.expert) experts.push_back(&*settings.expert);
    PlanSettings plan = settings.plan;
    Layer layer;
    layer.attention_device = layer.expert_device = main_;
    for (const auto& o : settings.layers) {
      if (l < o.first || l > o.last) continue;
      if (o.router) routers.push_back(&*o.router);
      if (o.expert) experts.push_back(&*o.expert);
      if (o.plan) plan = *o.plan;
      if (!o.attention_backend.empty()) {
        MOE_ASSIGN(layer.attention_device, device_named(o.attention_backend, settings, host));
      }
      if (!o.expert_backend.empty()) {
        MOE_ASSIGN(layer.expert_device, device_named(o.expert_backend, settings, host));
      }
    }
    const auto in_layer = [&](const moe::Error& e) { return e.in(fmt::format("layer {}", l)); };
    auto attention = AttentionPart::build(*layer.attention_device, ctx);
    if (!attention.ok()) return in_layer(attention.error());
    layer.attention = std::move(*attention);
    std::optional<ChosenPart<moe_router>> router;
    if (ffn.n_experts > 0) {
      MOE_ASSIGN(router, choose_part<moe_router>(ffn.router, routers, fmt::format("layer {}: router", l), [&](const std::string& name) { return registry_->router(name); }));
    }
    MOE_ASSIGN(auto expert, choose_part<moe_expert>(ffn.expert, experts, fmt::format("layer {}: expert", l), [&](const std::string& name) { return registry_->expert(name); }));
    MOE_ASSIGN(layer.ffn, FeedForwardPart::build(*layer.expert_device, ctx, host, std::move(router), std::move(expert), plan, previous));
    if (layer.ffn->wants_before_attention()) {
      layer.input_slot = layer.expert_device->scratch().request("layer_input", static_cast<uint64_t>(limits_.max_tokens * spec_.d_model) * 4);
    }
    if (layer.ffn->has_router()) {
      previous = layer.ffn.get();
      moe_parts_.push_back(layer.ffn.get());
      moe_devices_.push_back(layer.expert_device);
    }
    layers_.push_back({ffn.n_experts == 0, layer.ffn->router_name(), layer.ffn->expert_name(), layer.attention_device->device().name(),
                       layer.expert_device->device().name(), ffn.n_experts, layer.ffn->k_max()});
    layers_parts_.push_back(std::move(layer));
  }
  n_moe_layers_ = static_cast<int64_t>(moe_parts_.size());
  return {};
}

moe::Status LoadedModel::build_head(BuildContext& ctx) {
  ctx.layer = 0;
  const int64_t n = limits_.max_tokens;
  const int64_t d = spec_.d_model;
  const int64_t rows = max_logit_rows_;
  MOE_ASSIGN(const MatrixSet table, ctx.weights.matrices(spec_.tensors, "embed", 0, 1, spec_.n_vocab, d));
  MOE_ASSIGN(embedding_, ctx.weights.prepare(main_->device(), table, "auto", MOE_USE_EMBED | (spec_.tied ? MOE_USE_MATMUL : 0)));
  embed_args_ = moe::op_args<moe_embed_args>();
  embed_args_.table = embedding_.get();
  embed_args_.scale = spec_.embed_scale;
  embed_args_.ids = shape_i32({n});
  embed_args_.out = shape_f32({n, d});
  MOE_ASSIGN(embed_op_, find_op(*main_, MOE_OP_EMBED, embed_args_));
  auto gather = moe::op_args<moe_gather_args>();
  gather.x = shape_f32({n, d});
  gather.rows = shape_i32({rows});
  gather.out = shape_f32({rows, d});
  MOE_ASSIGN(gather_op_, find_op(*main_, MOE_OP_GATHER, gather));
  MOE_TRY(output_norm_.build(*main_, ctx, spec_.tensors, "output_norm", d, shape_f32({rows, d})));
  head_args_ = moe::op_args<moe_matmul_args>();
  head_args_.weight = embedding_.get();
  if (!spec_.tied) {
    MOE_ASSIGN(const MatrixSet head, ctx.weights.matrices(spec_.tensors, "head", 0, 1, spec_.n_vocab, d));
    MOE_ASSIGN(head_weight_, ctx.weights.prepare(main_->device(), head, ctx.precision.encoding));
    head_args_.weight = head_weight_.get();
  }
  if (spec_.head_bias) {
    MOE_ASSIGN(const auto bias, ctx.weights.vectors(spec_.tensors, "head_bias", 0, 1, spec_.n_vocab));
    MOE_ASSIGN(head_bias_, WeightLoader::upload(main_->device(), bias));
    head_args_.bias = moe::tensor(head_bias_.data(), MOE_F32, {spec_.n_vocab}, main_->device().where());
  }
  head_args_.scale = spec_.logit_scale;
  head_args_.soft_cap = spec_.logit_cap;
  head_args_.activation = spec_.tied ? MOE_F32 : ctx.precision.activation;
  head_args_.x = shape_f32({rows, d});
  head_args_.out = shape_f32({rows, spec_.n_vocab});
  MOE_ASSIGN(head_op_, find_op(*main_, MOE_OP_MATMUL, head_args_));
  MOE_TRY(normed_head_.find(*main_, output_norm_, head_op_, head_args_, false));
  gathered_slot_ = main_->scratch().request("gathered", static_cast<uint64_t>(rows * d) * 4);
  logits_slot_ = main_->scratch().request("logits", static_cast<uint64_t>(rows * spec_.n_vocab) * 4);
  largest_args_ = moe::op_args<moe_argmax_args>();
  largest_args_.x = head_args_.out;
  MOE_ASSIGN(largest_, main_->device().alloc(static_cast<uint64_t>(rows) * 4));
  largest_args_.ids = moe::tensor(largest_.data(), MOE_I32, {rows}, main_->device().where());
  MOE_ASSIGN(largest_op_, find_op(*main_, MOE_OP_ARGMAX, largest_args_));
  return {};
}

moe::Status LoadedModel::count_bytes(const Checkpoint& checkpoint) {
  bytes_.weights = embedding_.bytes() + head_weight_.bytes();
  bytes_.head = bytes_.read_per_token = spec_.tied ? embedding_.bytes() : head_weight_.bytes();
  for (size_t l = 0; l < layers_parts_.size(); ++l) {
    const Layer& layer = layers_parts_[l];
    const uint64_t chosen = layer.ffn->expert_bytes() * static_cast<uint64_t>(std::min(layer.ffn->k_max(), layer.ffn->n_experts()));
    const AttentionSpec& attention = spec_.layers[l].attention;
    bytes_.layers.push_back({layer.attention->weight_bytes() + layer.ffn->read_bytes() - std::min(chosen, layer.ffn->read_bytes()), layer.ffn->expert_bytes(),
                             layer.attention->cache_bytes_per_token() + layer.ffn->cache_bytes_per_token(), attention.chunk > 0 ? attention.chunk : attention.window});
    bytes_.weights += layer.attention->weight_bytes() + layer.ffn->weight_bytes();
    bytes_.read_per_token += layer.attention->weight_bytes() + layer.ffn->read_bytes();
    bytes_.cache_per_token += layer.attention->cache_bytes_per_token() + layer.ffn->cache_bytes_per_token();
  }
  bytes_.cache = bytes_.cache_per_token * static_cast<uint64_t>(limits_.n_pages * limits_.page_tokens);
  for (const auto& d : step_devices_) bytes_.scratch += d->total_bytes();
  if (bytes_.weights == 0 && checkpoint.file_bytes() > 0) return moe::internal("no weights were prepared");
  return {};
}

PackedCacheOptions LoadedModel::packed_cache_options(const Settings& settings) const {
  const MemoryNeeds needs = needs_of(settings.engine);
  const uint64_t beside = needs.working + needs.cache_per_token * static_cast<uint64_t>(limits_.n_pages * limits_.page_tokens);
  const uint64_t usable = usable_memory_bytes();
  return {settings.model.packed_cache, precision_.encoding, needs.weights, usable > beside ? usable - beside : 0};
}

moe::Status LoadedModel::build_all(const Settings& settings, Host& host, WeightLoader& loader) {
  BuildContext ctx{loader, spec_, limits_, precision_, cache_dtype_of(settings.engine, precision_), 0};
  MOE_TRY(build_head(ctx));
  return build_layers(settings, host, ctx);
}

moe::Status LoadedModel::build(const Settings& settings, ModelFiles& files, std::shared_ptr<PluginRegistry> registry, Host& host,
                               const LoadProgress& progress) {
  registry_ = std::move(registry);
  MOE_ASSIGN(precision_, precision_of(settings.model.precision));
  MOE_ASSIGN(spec_, read_model_spec(settings, files));
  MOE_ASSIGN(checkpoint_, files.checkpoint());
  MOE_ASSIGN(main_, device_named(settings.backends.front().plugin, settings, host));
  MOE_TRY(size_cache(settings));
  packed_ = std::make_unique<PackedCaches>(packed_cache_options(settings), *checkpoint_, host.pool());
  WeightLoader loader(*checkpoint_, spec_, progress, packed_.get());
  MOE_TRY(build_all(settings, host, loader));
  for (auto& note : packed_->finish()) notes_.push_back(std::move(note));
  for (auto& d : step_devices_) {
    MOE_TRY(d->allocate(limits_, spec_.d_model));
  }
  if (results_are_far()) {
    MOE_ASSIGN(host_largest_, main_->device().alloc_host(static_cast<uint64_t>(max_logit_rows_) * 4));
    MOE_ASSIGN(host_logits_, main_->device().alloc_host(static_cast<uint64_t>(max_logit_rows_ * spec_.n_vocab) * 4));
  }
  note_cuts();
  MOE_TRY(count_bytes(*checkpoint_));
  const auto [unused, ignored] = loader.leftovers();
  for (const auto& [prefix, n] : ignored) notes_.push_back(fmt::format("{} tensors under {} are skipped: the architecture does not use them", n, prefix));
  if (!unused.empty()) {
    notes_.push_back(fmt::format("{} tensors of the checkpoint are not used: {}{}", unused.size(), fmt::join(unused.begin(), unused.begin() + std::min<std::ptrdiff_t>(3, std::ssize(unused)), ", "),
                                 unused.size() > 3 ? ", ..." : ""));
  }
  checkpoint_.reset();  // everything has been packed: the mapping goes
  return {};
}

moe::Result<ModelOutline> LoadedModel::outline(const Settings& settings, ModelSpec spec, const Checkpoint* checkpoint,
                                               std::shared_ptr<PluginRegistry> registry, Host& host) {
  registry_ = std::move(registry);
  spec_ = std::move(spec);
  // Any precision but "auto": the outline tells then which weights follow it.
  MOE_ASSIGN(precision_, precision_of("int8"));
  Settings plain = settings;
  plain.engine.cache_dtype = "f32";
  for (auto& layer : plain.layers) layer.attention_backend = layer.expert_backend = "";
  MOE_ASSIGN(auto device, Device::open(outline_backend(), {}, host));
  devices_.push_back(std::move(device));
  step_devices_.push_back(std::make_unique<StepDevice>(*devices_.back()));
  main_ = step_devices_.back().get();
  MOE_TRY(size_cache(plain));
  OutlineLoader loader(checkpoint, spec_);
  const auto status = build_all(plain, host, loader);
  ModelOutline out = loader.take();
  if (!status.ok()) {
    out.problems.push_back(status.error().message);
    out.unused.clear();  // nobody came to ask for them
  }
  for (const auto& layer : layers_parts_) {
    out.attention_cache_bytes += layer.attention->cache_bytes_per_token();
    out.router_cache_bytes += layer.ffn->cache_bytes_per_token();
  }
  out.layers = layers_;
  out.spec = std::move(spec_);
  return out;
}

// A [n, dim] tensor from one device's memory to another's.
moe::Status LoadedModel::copy_between(StepDevice& from_device, const moe_tensor& from, StepDevice& to_device, const moe_tensor& to) {
  const auto n_bytes = static_cast<uint64_t>(from.shape[0] * from.shape[1]) * 4;
  if (&from_device == &to_device) return to_device.device().copy_inside(to.data, from.data, n_bytes);
  if (from_device.device().host_visible()) {
    MOE_TRY(to_device.device().upload(to.data, from.data, n_bytes));
    return to_device.device().host_visible() ? moe::Status() : to_device.device().sync();
  }
  if (to_device.device().host_visible()) return from_device.device().download(to.data, from.data, n_bytes);
  staging_.resize(n_bytes / 4);
  MOE_TRY(from_device.device().download(staging_.data(), from.data, n_bytes));
  MOE_TRY(to_device.device().upload(to.data, staging_.data(), n_bytes));
  return to_device.device().sync();
}

// The residual stream follows the layer's parts from backend to backend.
moe::Status LoadedModel::move_to(StepDevice*& current, StepDevice* next) {
  if (current == next) return {};
  MOE_TRY(copy_between(*current, current->x(), *next, next->x()));
  current = next;
  return {};
}

moe::Status LoadedModel::run_layers(StepRecorder& recorder) {
  StepDevice* current = main_;
  for (auto& layer : layers_parts_) {
    MOE_TRY(move_to(current, layer.attention_device));
    StepDevice& experts = *layer.expert_device;
    FeedForwardPart& ffn = *layer.ffn;
    moe_tensor input = moe::absent();
    if (ffn.wants_before_attention()) {
      input = experts.scratch_f32(layer.input_slot, {main_->n_tokens(), spec_.d_model});
      MOE_TRY(copy_between(*current, current->x(), experts, input));
    }
    MOE_TRY(layer.attention->forward(*layer.attention_device));
    MOE_TRY(move_to(current, &experts));
    MOE_TRY(ffn.prepare_route(experts));
    const auto route = [&ffn, &experts, input] {
      const moe_tensor here = moe::present(input) ? moe::with_rows(input, experts.n_tokens()) : input;
      return ffn.route(experts, here);
    };
    MOE_TRY(ffn.route_is_graph_safe() ? route() : recorder.cut(route));
    const auto run_experts = [&ffn, &experts] { return ffn.run_experts(experts); };
    MOE_TRY(ffn.experts_are_graph_safe() ? run_experts() : recorder.cut(run_experts));
    last_progress_ = std::chrono::steady_clock::now();
  }
  return move_to(current, main_);
}

moe::Status LoadedModel::run_head() {
  const int64_t rows = main_->n_logit_rows();
  if (rows == 0) return {};
  moe_tensor wanted = main_->x();
  const moe_tensor gathered = main_->scratch_f32(gathered_slot_, {rows, spec_.d_model});
  if (rows != main_->n_tokens()) {
    auto gather = moe::op_args<moe_gather_args>();
    gather.x = main_->x();
    gather.rows = main_->logit_rows();
    gather.out = gathered;
    MOE_TRY(main_->launch(gather_op_, gather));
    wanted = gathered;
  }
  moe_matmul_args head = head_args_;
  head.out = logits();
  return normed_head_.run(*main_, output_norm_, head_op_, head, wanted, gathered);
}

moe_tensor LoadedModel::logits() const { return main_->scratch_f32(logits_slot_, {main_->n_logit_rows(), spec_.n_vocab}); }

moe::Status LoadedModel::find_largest() {
  if (main_->n_logit_rows() == 0) return {};
  moe_argmax_args largest = largest_args_;
  largest.x = logits();
  largest.ids.shape[0] = main_->n_logit_rows();
  return main_->launch(largest_op_, largest);
}

// Everything between a step's inputs and its logits, or the largest of them.
moe::Status LoadedModel::run(StepRecorder& recorder, bool largest) {
  moe_embed_args embed = embed_args_;
  embed.ids = main_->ids();
  embed.out = main_->x();
  MOE_TRY(main_->launch(embed_op_, embed));
  MOE_TRY(run_layers(recorder));
  MOE_TRY(run_head());
  return largest ? find_largest() : moe::Status();
}

// The results and the decisions on the host: the only wait of a step.
moe::Status LoadedModel::fetch_results(bool largest) {
  for (auto& d : step_devices_) MOE_TRY(d->start_download_decisions());
  const auto rows = static_cast<uint64_t>(main_->n_logit_rows());
  if (results_are_far() && largest) MOE_TRY(main_->device().start_download(host_largest_.data(), largest_.data(), rows * 4));
  if (results_are_far() && !largest) {
    MOE_TRY(main_->device().start_download(host_logits_.data(), logits().data, rows * static_cast<uint64_t>(spec_.n_vocab) * 4));
  }
  for (auto& d : step_devices_) {
    if (!d->device().host_visible()) MOE_TRY(d->device().sync());
  }
  return {};
}

// Steps in which every sequence decodes are recorded, one device's alone: there launches are what costs.
bool LoadedModel::can_record() const {
  constexpr int64_t kMostTokens = 256;
  return step_devices_.size() == 1 && main_->device().can_record() && main_->n_tokens() == main_->n_sequences() &&
         main_->n_tokens() == main_->n_logit_rows() && main_->n_tokens() <= kMostTokens;
}

moe::Status LoadedModel::step(const Batch& batch, bool largest) {
  for (auto& d : step_devices_) MOE_TRY(d->upload(batch));
  if (can_record()) {
    const Recordings::Shape shape{main_->n_tokens(), main_->used_pages(), largest};
    MOE_TRY(recordings_.run(main_->device(), shape, [&](StepRecorder& recorder) { return run(recorder, largest); }));
  } else {
    StepRecorder nothing;
    MOE_TRY(run(nothing, largest));
  }
  MOE_TRY(fetch_results(largest));
  for (size_t l = 0; l < moe_parts_.size(); ++l) MOE_TRY(moe_parts_[l]->follow_load(*moe_devices_[l]));
  return {};
}

moe::Result<float*> LoadedModel::forward(const Batch& batch) {
  MOE_TRY(step(batch, false));
  return static_cast<float*>(results_are_far() ? host_logits_.data() : logits().data);
}

moe::Result<const int32_t*> LoadedModel::forward_to_largest(const Batch& batch) {
  MOE_TRY(step(batch, true));
  return static_cast<const int32_t*>((results_are_far() ? host_largest_ : largest_).data());
}

Model::PlanView LoadedModel::plan(int64_t moe_layer) {
  const FeedForwardPart& part = *moe_parts_[static_cast<size_t>(moe_layer)];
  const auto n = static_cast<size_t>(moe_devices_[static_cast<size_t>(moe_layer)]->n_tokens());
  const auto k = static_cast<size_t>(part.k_max());
  PlanView view;
  view.k = part.k_max();
  view.n_experts = part.n_ids();
  view.ids = {part.host_ids(), n * k};
  const int32_t* count = part.host_count();
  if (count == nullptr) return view;
  plan_ids_.assign(view.ids.begin(), view.ids.end());
  for (size_t i = 0; i < n; ++i) {
    for (auto j = static_cast<size_t>(std::max(0, count[i])); j < k; ++j) plan_ids_[i * k + j] = -1;
  }
  view.ids = plan_ids_;
  return view;
}

moe::Result<std::span<const float>> LoadedModel::plan_weights(int64_t moe_layer) {
  const FeedForwardPart& part = *moe_parts_[static_cast<size_t>(moe_layer)];
  StepDevice& device = *moe_devices_[static_cast<size_t>(moe_layer)];
  plan_weights_.resize(static_cast<size_t>(device.n_tokens() * part.k_max()));
  MOE_TRY(device.device().download(plan_weights_.data(), part.plan().weights.data, plan_weights_.size() * 4));
  return std::span<const float>(plan_weights_);
}

// What keeps a step from being one recording, for the operator.
void LoadedModel::note_cuts() {
  for (size_t l = 0; l < layers_parts_.size(); ++l) {
    const FeedForwardPart& ffn = *layers_parts_[l].ffn;
    if (!main_->device().can_record() || step_devices_.size() > 1) return;
    if (!ffn.route_is_graph_safe()) {
      notes_.push_back(fmt::format("layer {}: router \"{}\" cannot be recorded: every step stops there for the host", l, ffn.router_name()));
    }
    if (!ffn.experts_are_graph_safe()) {
      notes_.push_back(fmt::format("layer {}: expert \"{}\" cannot be recorded", l, ffn.expert_name()));
    }
  }
}

}  // namespace

moe::Result<ModelSpec> read_model_spec(const Settings& settings, const ModelFiles& files) {
  MOE_ASSIGN(const ModelDescription description, files.describe());
  std::vector<fs::path> folders = settings.architecture_paths;
  folders.push_back(share_dir() / "architectures");
  MOE_ASSIGN(const ArchitectureLibrary library, ArchitectureLibrary::open(folders));
  auto spec = library.describe(description, settings.model.architecture, settings.model.context);
  if (!spec.ok()) return spec.error().in(description.source);
  return spec;
}

moe::Result<std::shared_ptr<Model>> Model::load(const Settings& settings, ModelFiles& files, std::shared_ptr<PluginRegistry> registry, Host& host,
                                                const LoadProgress& progress) {
  auto model = std::make_shared<LoadedModel>();
  MOE_TRY(model->build(settings, files, std::move(registry), host, progress));
  return std::shared_ptr<Model>(std::move(model));
}

moe::Result<std::shared_ptr<Model>> Model::load(const Settings& settings, std::shared_ptr<PluginRegistry> registry, Host& host, const LoadProgress& progress) {
  if (settings.model.path.empty()) return moe::invalid("model.path: expected a model's directory or a .gguf file, got none (use --model PATH)");
  MOE_ASSIGN(const auto files, ModelFiles::open(settings.model.path));
  return load(settings, *files, std::move(registry), host, progress);
}

moe::Result<ModelOutline> outline_model(const Settings& settings, const ModelSpec& spec, const Checkpoint* checkpoint,
                                        std::shared_ptr<PluginRegistry> registry, Host& host) {
  return LoadedModel().outline(settings, spec, checkpoint, std::move(registry), host);
}

}  // namespace patchbay
