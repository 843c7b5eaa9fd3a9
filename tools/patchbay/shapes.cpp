#include "tools/patchbay/shapes.hpp"

#include <fmt/format.h>

#include "core/engine/model.hpp"

namespace patchbay {

std::vector<std::filesystem::path> shape_folders() { return {share_dir() / "shapes"}; }

moe::Result<ModelOutline> outline_of_shape(const Settings& settings, const ModelShape& shape, const std::string& format,
                                           std::shared_ptr<PluginRegistry> registry, Host& host) {
  std::vector<std::filesystem::path> folders = settings.architecture_paths;
  folders.push_back(share_dir() / "architectures");
  MOE_ASSIGN(const ArchitectureLibrary library, ArchitectureLibrary::open(folders));
  auto spec = library.describe_for(format, shape.config);
  if (!spec.ok()) return spec.error().in(fmt::format("shape {}", shape.name));
  MOE_ASSIGN(ModelOutline outline, outline_model(settings, *spec, nullptr, std::move(registry), host));
  if (!outline.problems.empty()) return moe::invalid(fmt::format("shape {}: {}", shape.name, outline.problems.front()));
  return outline;
}

}  // namespace patchbay
