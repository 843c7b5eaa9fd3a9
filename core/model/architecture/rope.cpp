#include "core/model/architecture/rope.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

namespace patchbay {
namespace {

// Plain frequencies, theta^(-2i / n_rot), rounded to f32 as the reference implementations keep them.
std::vector<double> plain(double theta, int64_t n_rot) {
  std::vector<double> out;
  for (int64_t i = 0; i < (n_rot + 1) / 2; ++i) {
    const auto exponent = static_cast<float>(2 * i) / static_cast<float>(n_rot);
    out.push_back(static_cast<float>(1.0F / std::pow(static_cast<float>(theta), exponent)));
  }
  return out;
}

// NTK-aware scaling: theta grows so that the slowest pair turns `ratio` times slower.
std::vector<double> stretched(double theta, double ratio, int64_t n_rot) {
  if (n_rot <= 2) return plain(theta, n_rot);
  return plain(theta * std::pow(ratio, static_cast<double>(n_rot) / static_cast<double>(n_rot - 2)), n_rot);
}

double yarn_mscale(double factor, double mscale) { return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0; }

// YaRN, "NTK-by-parts" interpolation (arXiv 2309.00071, section 3.2 and appendix).
void apply_yarn(const RopeScaling& s, int64_t n_rot, std::vector<double>& freq, double& attention) {
  const double original = static_cast<double>(s.original_context);
  const auto dimension_of = [&](double rotations) {
    return static_cast<double>(n_rot) * std::log(original / (rotations * 2 * std::numbers::pi)) / (2 * std::log(s.theta));
  };
  double low = dimension_of(s.beta_fast);
  double high = dimension_of(s.beta_slow);
  if (s.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(n_rot - 1));
  if (low == high) high += 0.001;
  for (size_t i = 0; i < freq.size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    const double extrapolated = 1.0 - ramp;
    freq[i] = freq[i] / s.factor * (1 - extrapolated) + freq[i] * extrapolated;
  }
  if (s.attention_factor > 0) {
    attention = s.attention_factor;
  } else if (s.mscale > 0 && s.mscale_all_dim > 0) {
    attention = yarn_mscale(s.factor, s.mscale) / yarn_mscale(s.factor, s.mscale_all_dim);
  } else {
    attention = yarn_mscale(s.factor, 1.0);
  }
}

// Llama 3.1's rule: long wavelengths are interpolated, short ones kept, and those between blended.
void apply_llama3(const RopeScaling& s, std::vector<double>& freq) {
  const double original = static_cast<double>(s.original_context);
  const double low_wavelength = original / s.low_freq_factor;
  const double high_wavelength = original / s.high_freq_factor;
  for (double& f : freq) {
    const double wavelength = 2 * std::numbers::pi / f;
    if (wavelength < high_wavelength) continue;
    if (wavelength > low_wavelength) {
      f /= s.factor;
    } else {
      const double smooth = (original / wavelength - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor);
      f = (1 - smooth) * f / s.factor + smooth * f;
    }
  }
}

moe::Status apply_longrope(const RopeScaling& s, int64_t n_rot, std::vector<double>& freq, double& attention) {
  const bool is_long = s.context > s.original_context;
  const auto& factors = is_long ? s.long_factors : s.short_factors;
  if (factors.size() != freq.size()) {
    return moe::invalid(fmt::format("longrope factors: expected {} (half of {} rotary dimensions), got {}", freq.size(), n_rot, factors.size()));
  }
  for (size_t i = 0; i < freq.size(); ++i) {
    if (!(factors[i] > 0)) return moe::invalid(fmt::format("longrope factors: expected numbers above 0, got {}", factors[i]));
    freq[i] /= factors[i];
  }
  const double own = is_long ? s.long_attention_factor : s.short_attention_factor;
  attention = own > 0                ? own
              : s.attention_factor > 0 ? s.attention_factor
              : s.factor <= 1        ? 1.0
                                     : std::sqrt(1 + std::log(s.factor) / std::log(static_cast<double>(s.original_context)));
  return {};
}

}  // namespace

bool has_two_regimes(const RopeScaling& s) { return s.type == "longrope" || s.type == "dynamic"; }

moe::Result<RopeTable> rope_table(const RopeScaling& s, int64_t n_rot) {
  if (n_rot < 0) return moe::invalid(fmt::format("rotary dimensions: expected 0 or more, got {}", n_rot));
  if (!(s.theta > 1)) return moe::invalid(fmt::format("rope theta: expected above 1, got {}", s.theta));
  if (!(s.factor > 0)) return moe::invalid(fmt::format("rope factor: expected above 0, got {}", s.factor));
  std::vector<double> freq = plain(s.theta, n_rot);
  RopeTable table;
  const bool needs_original = s.type == "yarn" || s.type == "llama3" || s.type == "longrope";
  if (needs_original && s.original_context <= 1) {
    return moe::invalid(fmt::format("rope {}: expected the original context length, got {}", s.type, s.original_context));
  }
  if (s.type == "linear") {
    for (double& f : freq) f /= s.factor;
  } else if (s.type == "yarn") {
    apply_yarn(s, n_rot, freq, table.attention_factor);
  } else if (s.type == "llama3") {
    if (!(s.high_freq_factor > s.low_freq_factor)) return moe::invalid("rope llama3: expected high_freq_factor above low_freq_factor");
    apply_llama3(s, freq);
  } else if (s.type == "longrope") {
    MOE_TRY(apply_longrope(s, n_rot, freq, table.attention_factor));
  } else if (s.type == "ntk") {
    freq = stretched(s.theta, s.factor, n_rot);
  } else if (s.type == "dynamic") {
    // The same once the context is longer than the one that the model was trained on, by as much as that is.
    if (s.original_context > 0 && s.context > s.original_context) {
      freq = stretched(s.theta, s.factor * static_cast<double>(s.context) / static_cast<double>(s.original_context) - (s.factor - 1), n_rot);
    }
  } else if (s.type != "default") {
    return moe::unimplemented(fmt::format("rope type: expected default | linear | ntk | dynamic | yarn | llama3 | longrope, got \"{}\"", s.type));
  }
  for (const double f : freq) table.inv_freq.push_back(static_cast<float>(f));
  return table;
}

}  // namespace patchbay
