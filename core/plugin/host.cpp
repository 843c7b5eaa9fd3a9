#include "core/plugin/host.hpp"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <iterator>

#include "moe/sdk/tensor.hpp"

namespace patchbay {
namespace {

constexpr spdlog::level::level_enum kLevels[] = {spdlog::level::debug, spdlog::level::info, spdlog::level::warn,
                                                 spdlog::level::err};

spdlog::logger& logger() {
  static const auto instance = [] {
    auto l = std::make_shared<spdlog::logger>("patchbay", std::make_shared<spdlog::sinks::stderr_sink_mt>());
    l->set_pattern("%Y-%m-%d %H:%M:%S.%e %L %v");
    l->set_level(spdlog::level::info);
    return l;
  }();
  return *instance;
}

bool g_json = false;

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    if (static_cast<unsigned char>(c) < 0x20) {
      out += ' ';
    } else {
      out += c;
    }
  }
  return out;
}

void host_log(void* /*self*/, int32_t level, const char* plugin, const char* text) {
  log_line(level, plugin == nullptr ? "plugin" : plugin, text == nullptr ? "" : text);
}
void host_metric_add(void* self, const char* name, double value) { static_cast<Host*>(self)->metric_add(name, value); }
void host_metric_set(void* self, const char* name, double value) { static_cast<Host*>(self)->metric_set(name, value); }
void host_parallel_for(void* self, int64_t n_tasks, moe_task task, void* context) {
  static_cast<Host*>(self)->pool().run(n_tasks, task, context);
}
int32_t host_n_threads(void* self) { return static_cast<Host*>(self)->pool().n_threads(); }
const void* host_extension(void* /*self*/, const char* /*id*/) { return nullptr; }

}  // namespace

Host::Host(int32_t n_threads) : pool_(n_threads > 0 ? n_threads : usable_cores()) {
  abi_ = moe::make<moe_host>();
  abi_.self = this;
  abi_.name = "patchbay 0.1.0";
  abi_.log = host_log;
  abi_.metric_add = host_metric_add;
  abi_.metric_set = host_metric_set;
  abi_.parallel_for = host_parallel_for;
  abi_.n_threads = host_n_threads;
  abi_.get_extension = host_extension;
}

std::map<std::string, double> Host::metrics() const {
  const std::lock_guard lock(mutex_);
  return metrics_;
}
void Host::metric_add(const std::string& name, double value) {
  const std::lock_guard lock(mutex_);
  metrics_[name] += value;
}
void Host::metric_set(const std::string& name, double value) {
  const std::lock_guard lock(mutex_);
  metrics_[name] = value;
}

void set_log(int32_t level, bool json) {
  logger().set_level(kLevels[level < 0 || level > 3 ? 1 : level]);
  logger().set_pattern(json ? R"({"time":"%Y-%m-%dT%H:%M:%S.%e%z","level":"%l",%v})" : "%Y-%m-%d %H:%M:%S.%e %L %v");
  g_json = json;
}

void set_log(const std::string& level, const std::string& format) {
  constexpr const char* kNames[] = {"debug", "info", "warning", "error"};
  const auto* found = std::find(std::begin(kNames), std::end(kNames), level);
  set_log(found == std::end(kNames) ? MOE_LOG_INFO : static_cast<int32_t>(found - std::begin(kNames)), format == "json");
}

void log_line(int32_t level, std::string_view source, std::string_view text) {
  const auto l = kLevels[level < 0 || level > 3 ? 1 : level];
  if (g_json) {
    logger().log(l, "\"source\":\"{}\",\"text\":\"{}\"", escaped(source), escaped(text));
  } else {
    logger().log(l, "{}: {}", source, text);
  }
}

}  // namespace patchbay
