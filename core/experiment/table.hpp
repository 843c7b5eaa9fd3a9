// The figures of an experiment as text.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace patchbay {

// A Markdown table of the cells, what swapped routers cost, groups of seeds, and what is not there. `summary`: of
// summary_of.
std::string table_of(const nlohmann::json& summary);

// "its router, hash, is not the one that the model was trained with (topk): 28 of 1000 right instead of 997 (...)".
std::string cost_text(const nlohmann::json& cell);

}  // namespace patchbay
