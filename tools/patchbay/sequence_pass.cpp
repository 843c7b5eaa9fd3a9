#include "tools/patchbay/sequence_pass.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "core/engine/cache.hpp"

namespace patchbay {

moe::Status run_sequence(Model& model, std::span<const int32_t> ids, const ChunkListener& listener) {
  const auto n = std::ssize(ids);
  if (n > model.context())
    return moe::invalid(fmt::format("expected at most {} ids (the context), got {}", model.context(), n));
  PageAllocator pages(model.limits().n_pages, model.limits().page_tokens);
  std::vector<int32_t> own;
  if (!pages.take(pages.pages_for(n), own)) return moe::exhausted("cache: too small for these tokens");
  const int64_t chunk = std::min(model.max_logit_rows(), model.limits().max_tokens);
  for (int64_t begin = 0; begin < n; begin += chunk) {
    const int64_t end = std::min(n, begin + chunk);
    Batch batch;
    batch.max_pages = model.limits().max_pages;
    batch.page_table.assign(static_cast<size_t>(batch.max_pages), 0);
    std::copy(own.begin(), own.end(), batch.page_table.begin());
    for (int64_t p = begin; p < end; ++p) {
      const int64_t size = model.limits().page_tokens;
      batch.ids.push_back(ids[static_cast<size_t>(p)]);
      batch.positions.push_back(static_cast<int32_t>(p));
      batch.sequences.push_back(0);
      batch.cache_rows.push_back(own[static_cast<size_t>(p / size)] * size + p % size);
      batch.logit_rows.push_back(static_cast<int32_t>(p - begin));
    }
    MOE_ASSIGN(const float* rows, model.forward(batch));
    MOE_TRY(listener(begin, {rows, static_cast<size_t>((end - begin) * model.spec().n_vocab)}));
  }
  return {};
}

}  // namespace patchbay
