// What moe_add_plugin() promises about a library, whatever its code uses.
#include <dlfcn.h>
#include <elf.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "moe/abi/router.h"
#include "tests/support/test_compute.hpp"

namespace {

namespace test = patchbay::test;

// The names that a library defines for others, from its dynamic symbol table.
std::vector<std::string> exported_symbols(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  const std::string file((std::istreambuf_iterator<char>(in)), {});
  const auto at = [&]<typename T>(T, uint64_t offset) {
    T value{};
    if (offset + sizeof(T) <= file.size()) std::memcpy(&value, file.data() + offset, sizeof(T));
    return value;
  };
  std::vector<std::string> names;
  const auto header = at(Elf64_Ehdr{}, 0);
  for (int s = 0; s < header.e_shnum; ++s) {
    const auto section = at(Elf64_Shdr{}, header.e_shoff + static_cast<uint64_t>(s) * sizeof(Elf64_Shdr));
    if (section.sh_type != SHT_DYNSYM) continue;
    const auto strings = at(Elf64_Shdr{}, header.e_shoff + section.sh_link * sizeof(Elf64_Shdr));
    for (uint64_t i = 0; i < section.sh_size / sizeof(Elf64_Sym); ++i) {
      const auto symbol = at(Elf64_Sym{}, section.sh_offset + i * sizeof(Elf64_Sym));
      if (symbol.st_shndx != SHN_UNDEF) names.emplace_back(file.c_str() + strings.sh_offset + symbol.st_name);
    }
  }
  return names;
}

bool is_mapped(const std::string& path) {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    if (line.ends_with(path)) return true;
  }
  return false;
}

TEST(PluginLibrary, exports_the_entry_and_nothing_else) {
  EXPECT_EQ(exported_symbols(STICKY_PLUGIN), std::vector<std::string>{MOE_PLUGIN_SYMBOL});
}

TEST(PluginLibrary, is_unmapped_after_use_and_dlclose) {
  ASSERT_FALSE(is_mapped(STICKY_PLUGIN));
  {
    const auto plugin = test::load<moe_router>(STICKY_PLUGIN, MOE_ROUTER_ID, "sticky");
    const moe_router& router = *plugin.table;
    ASSERT_TRUE(is_mapped(STICKY_PLUGIN));
    auto config = moe::make<moe_router_config>();
    config.n_experts = 4;
    moe_router_instance* instance = nullptr;
    ASSERT_EQ(router.create(test::host().abi(), &config, nullptr, 0, &instance, nullptr), MOE_OK);
    float logits[4] = {0.0F, 2.0F, 3.0F, 1.0F};
    int32_t zero[1] = {0};
    int32_t id[1] = {-1};
    float weight[1] = {0.0F};
    auto args = moe::make<moe_route_args>();
    args.n_tokens = 1;
    args.logits = moe::tensor(logits, {1, 4});
    args.token_ids = args.positions = args.sequences = moe::tensor(zero, {1});
    args.plan.ids = moe::tensor(id, {1, 1});
    args.plan.weights = moe::tensor(weight, {1, 1});
    EXPECT_EQ(router.route(instance, &args, nullptr), MOE_OK);
    EXPECT_EQ(id[0], 2);
    router.destroy(instance);
  }
  EXPECT_FALSE(is_mapped(STICKY_PLUGIN));
}

TEST(PluginLibrary, an_exception_becomes_a_status) {
  const auto plugin = test::load<moe_router>(STICKY_PLUGIN, MOE_ROUTER_ID, "sticky");
  const moe_router& router = *plugin.table;
  auto config = moe::make<moe_router_config>();
  moe_router_instance* instance = nullptr;
  moe::MessageBuffer message;
  config.n_experts = 13;
  EXPECT_EQ(router.create(test::host().abi(), &config, nullptr, 0, &instance, message.get()), MOE_INTERNAL);
  EXPECT_EQ(message.text(), "thirteen");
  config.n_experts = 14;
  EXPECT_EQ(router.create(test::host().abi(), &config, nullptr, 0, &instance, message.get()), MOE_INTERNAL);
  EXPECT_EQ(message.text(), "an exception of unknown type");
  EXPECT_EQ(instance, nullptr);
}

TEST(PluginLibrary, init_refuses_a_host_that_it_does_not_understand) {
  void* library = dlopen(STICKY_PLUGIN, RTLD_NOW | RTLD_LOCAL);
  ASSERT_NE(library, nullptr);
  const auto* plugin = static_cast<const moe_plugin*>(dlsym(library, MOE_PLUGIN_SYMBOL));
  ASSERT_NE(plugin, nullptr);
  EXPECT_EQ(plugin->init(nullptr, nullptr), MOE_INVALID_ARGUMENT);
  auto host = moe::make<moe_host>();
  host.must_understand = 1;
  EXPECT_EQ(plugin->init(&host, nullptr), MOE_UNIMPLEMENTED);
  host.must_understand = 0;
  host.struct_size -= 8;
  EXPECT_EQ(plugin->init(&host, nullptr), MOE_INVALID_ARGUMENT);
  dlclose(library);
}

}  // namespace
