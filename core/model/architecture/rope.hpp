// Rotary frequencies and their scalings.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "moe/sdk/result.hpp"

namespace patchbay {

struct RopeScaling {
  std::string type = "default";  // default | linear | ntk | dynamic | yarn | llama3 | longrope
  double theta = 10000;
  double factor = 1;
  int64_t context = 0;           // longest sequence in use
  int64_t original_context = 0;  // that the model was first trained on
  // yarn (arXiv 2309.00071); mscale and mscale_all_dim as DeepSeek uses them
  double beta_fast = 32;
  double beta_slow = 1;
  double mscale = 0;
  double mscale_all_dim = 0;
  double attention_factor = 0;  // 0: by formula
  // longrope: of the two regimes; 0: attention_factor
  double short_attention_factor = 0;
  double long_attention_factor = 0;
  bool truncate = true;         // whether the correction range is rounded to whole dimensions
  // llama3
  double low_freq_factor = 1;
  double high_freq_factor = 4;
  // longrope (Phi-3.5)
  std::vector<double> short_factors;
  std::vector<double> long_factors;
};

struct RopeTable {
  std::vector<float> inv_freq;  // [n_rot / 2], rounded up: an odd number of dimensions turns one more
  double attention_factor = 1;  // of cos and sin
};

// Whether a longer context than the original one takes other frequencies, so that both cannot be had at once.
bool has_two_regimes(const RopeScaling& scaling);

// The table for n_rot dimensions. Errors name the setting that does not fit.
moe::Result<RopeTable> rope_table(const RopeScaling& scaling, int64_t n_rot);

}  // namespace patchbay
