#include "core/engine/sampling.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "core/plugin/nearest.hpp"
#include "core/plugin/thread_pool.hpp"
#include "moe/sdk/compute.hpp"

namespace patchbay {
namespace {

// What a chain is made of when the configuration names none: all neutral by their defaults, in the order that people
// expect from other engines (penalties look at the model's logits, temperature comes before the cuts).
constexpr const char* kDefaultLinks[] = {"penalties", "logit_bias", "temperature", "top_k", "top_p", "min_p", "pick"};

OptionScalar to_option(const SamplingParameter& p) {
  return std::visit([](const auto& v) { return OptionScalar(v); }, p.value);
}

// The link's option that a request's parameter means; null if it has none.
const moe_option* option_for(const moe_component& c, const std::string& parameter) {
  for (uint32_t i = 0; i < c.n_options; ++i) {
    const moe_option& o = moe::nth(c.options, i);
    if ((o.flags & MOE_OPTION_REQUEST) == 0) continue;
    if (parameter == o.key || (parameter == c.name && std::string_view(o.key) == "value")) return &o;
  }
  return nullptr;
}

// A link's call for some rows, and what came of it for each.
struct Application {
  const moe_sampler* link;
  int64_t n_vocab;
  std::span<moe_sample_row> rows;
  std::vector<std::string> problems;  // by row; "" if there is none

  void apply(size_t first, size_t n) {
    moe_sample_args args = moe::make<moe_sample_args>();
    args.n_rows = static_cast<int64_t>(n);
    args.n_vocab = n_vocab;
    args.rows = rows.data() + first;
    moe::MessageBuffer message;
    if (link->apply(&args, message.get()) == MOE_OK) return;
    for (size_t i = first; i < first + n; ++i) {
      problems[i] = fmt::format("sampler \"{}\": {}", link->component.name, message.text());
    }
  }
};

void apply_link(Application& call, ThreadPool* pool) {
  if (pool == nullptr || (call.link->component.capabilities & MOE_CAP_REENTRANT) == 0)
    return call.apply(0, call.rows.size());
  const auto one = [](void* context, int64_t row, int32_t) {
    static_cast<Application*>(context)->apply(static_cast<size_t>(row), 1);
  };
  pool->run(static_cast<int64_t>(call.rows.size()), one, &call);
}

}  // namespace

ChainState::~ChainState() {
  for (size_t i = 0; i < states_.size(); ++i) links_[i]->destroy(states_[i]);
}

moe::Result<std::shared_ptr<const SamplerChain>> SamplerChain::build(const std::vector<PluginChoice>& samplers,
                                                                     PluginRegistry& registry, int64_t n_vocab) {
  auto chain = std::make_shared<SamplerChain>();
  chain->n_vocab_ = n_vocab;
  std::vector<PluginChoice> choices = samplers;
  if (choices.empty()) {
    for (const char* name : kDefaultLinks) choices.push_back({name, {}, ""});
  }
  for (size_t i = 0; i < choices.size(); ++i) {
    auto component = registry.sampler(choices[i].plugin);
    if (!component.ok()) return choices[i].where.empty() ? component.error() : component.error().in(choices[i].where);
    const bool picks = (component->header().capabilities & MOE_CAP_PICKS) != 0;
    if (picks && i + 1 < choices.size()) {
      return moe::invalid(fmt::format("{}sampler \"{}\": it picks the token, so expected it last, got it before \"{}\"",
                                      choices[i].where.empty() ? "" : choices[i].where + ": ", choices[i].plugin,
                                      choices[i + 1].plugin));
    }
    const auto* largest = extension<moe_sampler_largest>(component->header(), MOE_SAMPLER_LARGEST_ID);
    chain->links_.push_back({std::move(*component), choices[i].options, largest});
    if (!picks && i + 1 == choices.size()) choices.push_back({"pick", {}, ""});
  }
  // The configuration's own values are checked once, here.
  MOE_ASSIGN(const ChainState probe, chain->start({}));
  return std::shared_ptr<const SamplerChain>(std::move(chain));
}

moe::Result<ChainState> SamplerChain::start(const std::vector<SamplingParameter>& parameters) const {
  std::vector<std::vector<GivenOption>> given;
  for (const auto& link : links_) given.push_back(link.options);
  for (const auto& p : parameters) {
    bool known = false;
    for (size_t i = 0; i < links_.size() && !known; ++i) {
      if (const moe_option* option = option_for(links_[i].component.header(), p.name)) {
        given[i].push_back({option->key, to_option(p), ""});
        known = true;
      }
    }
    if (!known) {
      const auto all = names();
      return moe::invalid(fmt::format("sampling: expected one of {}, got \"{}\"{}", fmt::join(all, ", "), p.name,
                                      did_you_mean(p.name, all)));
    }
  }
  ChainState state;
  for (size_t i = 0; i < links_.size(); ++i) {
    const moe_sampler* table = links_[i].component.table;
    MOE_ASSIGN(const OptionValues values, check_options(table->component, given[i], table->component.name));
    moe_sampler_state* one = nullptr;
    moe::MessageBuffer message;
    const moe_status status = table->create(values.data(), values.size(), n_vocab_, &one, message.get());
    if (status != MOE_OK) return message.error(status).in(fmt::format("sampler \"{}\"", table->component.name));
    state.links_.push_back(table);
    state.states_.push_back(one);
  }
  return state;
}

std::vector<std::string> SamplerChain::names() const {
  std::vector<std::string> out;
  for (const auto& link : links_) {
    const moe_component& c = link.component.header();
    for (uint32_t i = 0; i < c.n_options; ++i) {
      const moe_option& o = moe::nth(c.options, i);
      if ((o.flags & MOE_OPTION_REQUEST) == 0) continue;
      out.emplace_back(std::string_view(o.key) == "value" ? c.name : o.key);
    }
  }
  return out;
}

bool SamplerChain::has_links_of(const SamplerChain& other) const {
  return std::equal(links_.begin(), links_.end(), other.links_.begin(), other.links_.end(),
                    [](const Link& a, const Link& b) { return a.component.table == b.component.table; });
}

void SamplerChain::sample(std::vector<SampleRow>& rows, ThreadPool* pool) const {
  std::vector<moe_sample_row> active;
  std::vector<size_t> origin;
  for (size_t i = 0; i < links_.size(); ++i) {
    const moe_sampler* link = links_[i].component.table;
    active.clear();
    origin.clear();
    for (size_t r = 0; r < rows.size(); ++r) {
      SampleRow& row = rows[r];
      if (row.token != -1 || !row.problem.empty()) continue;
      moe_sampler_state* state = row.state->states_[i];
      if (link->is_identity != nullptr && link->is_identity(state) != 0) continue;
      moe_sample_row out{};
      out.state = state;
      out.logits = row.logits;
      out.history = row.history->data();
      out.n_history = static_cast<int64_t>(row.history->size());
      out.n_prompt = row.n_prompt;
      out.seed = row.seed;
      out.counter = static_cast<uint64_t>(out.n_history - row.n_prompt);
      out.picked = -1;
      active.push_back(out);
      origin.push_back(r);
    }
    if (active.empty()) continue;
    Application call{link, n_vocab_, active, std::vector<std::string>(active.size())};
    apply_link(call, pool);
    for (size_t a = 0; a < active.size(); ++a) {
      SampleRow& row = rows[origin[a]];
      row.token = active[a].picked;
      row.problem = std::move(call.problems[a]);
    }
  }
  for (auto& row : rows) {
    if (!row.problem.empty()) continue;
    if (row.token < -1) {
      row.problem = "logits: expected finite numbers, got NaN or nothing that may be chosen";
    } else if (row.token < 0 || row.token >= n_vocab_) {
      row.problem = fmt::format("sampler chain: expected a token in [0, {}), got {}", n_vocab_, row.token);
    }
  }
}

bool SamplerChain::picks_largest(const ChainState& state) const {
  for (size_t i = 0; i < links_.size(); ++i) {
    const moe_sampler* link = links_[i].component.table;
    if (link->is_identity != nullptr && link->is_identity(state.states_[i]) != 0) continue;
    const moe_sampler_largest* largest = links_[i].largest;
    return largest != nullptr && largest->picks_largest(state.states_[i]) != 0;
  }
  return false;
}

void SamplerChain::accept(ChainState& state, int32_t token) const {
  for (size_t i = 0; i < links_.size(); ++i) {
    if (links_[i].component->accept != nullptr) links_[i].component->accept(state.states_[i], token);
  }
}

}  // namespace patchbay
