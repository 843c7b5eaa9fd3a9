// "Did you mean": the known name nearest to a mistyped one.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace patchbay {

// The candidate with the smallest edit distance, if it is near enough to be meant (at most a third of the longer name, and at least
// one letter in common); nothing otherwise.
std::optional<std::string> nearest(std::string_view name, const std::vector<std::string>& candidates);

// " (did you mean \"x\"?)" or "".
std::string did_you_mean(std::string_view name, const std::vector<std::string>& candidates);

}  // namespace patchbay
