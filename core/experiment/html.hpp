// The report: one HTML file that needs nothing else.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "moe/sdk/result.hpp"

namespace patchbay {

// `folder` has report.html, report.css, report.js and chart.min.js (Chart.js), which all go into the page with the
// summary of summary_of.
moe::Result<std::string> report_of(const nlohmann::json& summary, const std::filesystem::path& folder);

}  // namespace patchbay
