#include "core/experiment/html.hpp"

#include <fmt/format.h>

#include "core/model/json/json.hpp"

namespace patchbay {
namespace {

constexpr size_t kMaxPartBytes = size_t{16} << 20;

// Replaces the one "<!-- name -->" of a page.
moe::Status put(std::string& page, const std::string& name, const std::string& text) {
  const std::string mark = fmt::format("<!-- {} -->", name);
  const size_t at = page.find(mark);
  if (at == std::string::npos) return moe::internal(fmt::format("report.html: expected \"{}\", got none", mark));
  page.replace(at, mark.size(), text);
  return {};
}

// "</script" would end the element: in JSON "<" may be written as an escape, in our scripts it does not occur.
std::string json_in_html(const nlohmann::json& doc) {
  std::string out;
  for (const char c : doc.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)) {
    if (c == '<') {
      out += "\\u003c";
    } else {
      out += c;
    }
  }
  return out;
}

}  // namespace

moe::Result<std::string> report_of(const nlohmann::json& summary, const std::filesystem::path& folder) {
  MOE_ASSIGN(std::string page, read_file(folder / "report.html", kMaxPartBytes));
  MOE_ASSIGN(const std::string style, read_file(folder / "report.css", kMaxPartBytes));
  MOE_ASSIGN(const std::string script, read_file(folder / "report.js", kMaxPartBytes));
  MOE_ASSIGN(const std::string library, read_file(folder / "chart.min.js", kMaxPartBytes));
  // The data last: it may say anything.
  MOE_TRY(put(page, "style", "<style>\n" + style + "</style>"));
  MOE_TRY(put(page, "library", "<script>\n" + library + "\n</script>"));
  MOE_TRY(put(page, "script", "<script>\n" + script + "</script>"));
  MOE_TRY(put(page, "data", "<script type=\"application/json\" id=\"data\">" + json_in_html(summary) + "</script>"));
  return page;
}

}  // namespace patchbay
