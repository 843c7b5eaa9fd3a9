// The shapes of configs/shapes: both halves of a file say the same, and the tensors are as many as the model is said to
// have.
#include <gtest/gtest.h>

#include "core/engine/model.hpp"
#include "core/engine/random_model.hpp"
#include "core/plugin/host.hpp"
#include "tests/e2e/program.hpp"

namespace patchbay::e2e {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
const std::vector<fs::path> kShapes = {PATCHBAY_SOURCE_DIR "/configs/shapes"};

class Shapes : public ::testing::TestWithParam<std::string> {
 protected:
  Shapes() : host_(1) {
    RegistryOptions plugins;
    plugins.search_paths = {PATCHBAY_BINARY_DIR "/lib/patchbay/plugins"};
    plugins.probe_program = PATCHBAY_BINARY_DIR "/bin/patchbay";
    plugins.cache_file = PATCHBAY_BINARY_DIR "/tests/e2e_cache/shapes/plugins.json";
    registry_ = PluginRegistry::scan(std::move(plugins), host_);
    auto shape = load_shape(GetParam(), kShapes);
    EXPECT_TRUE(shape.ok()) << shape.error().message;
    if (shape.ok()) shape_ = std::move(*shape);
  }
  // The outline of a checkpoint in that format.
  ModelOutline outline(const std::string& format) {
    auto spec = library().describe_for(format, shape_.config);
    EXPECT_TRUE(spec.ok()) << spec.error().message;
    auto out = outline_model(Settings{}, *spec, nullptr, registry_, host_);
    EXPECT_TRUE(out.ok()) << out.error().message;
    EXPECT_TRUE(out->problems.empty()) << out->problems.front();
    return std::move(*out);
  }
  static const ArchitectureLibrary& library() {
    static const auto opened = ArchitectureLibrary::open({PATCHBAY_SOURCE_DIR "/configs/architectures"});
    return *opened;
  }

  Host host_;
  std::shared_ptr<PluginRegistry> registry_;
  ModelShape shape_;
};

double elements(const std::vector<RandomTensor>& tensors) {
  double n = 0;
  for (const auto& t : tensors) n += static_cast<double>(element_count(t.declaration.shape));
  return n;
}

// "OLMoE-1B-7B: 6.9 B parameters, ..."
double parameters_in(const std::string& doc) {
  const size_t at = doc.find(": ");
  return at == std::string::npos ? 0 : std::stod(doc.substr(at + 2)) * 1e9;
}

TEST_P(Shapes, has_as_many_parameters_as_its_text_says_in_either_format) {
  const auto plain = random_tensors(outline(""), "bf16", false);
  const auto gguf = random_tensors(outline("gguf"), "bf16", true);
  ASSERT_TRUE(plain.ok()) << plain.error().message;
  ASSERT_TRUE(gguf.ok()) << gguf.error().message;
  EXPECT_EQ(elements(*plain), elements(*gguf));
  const double said = parameters_in(shape_.doc);
  EXPECT_NEAR(elements(*plain) / said, 1, 0.006) << shape_.doc << ": " << elements(*plain);
}

// What a reader of the file would see.
ModelDescription description_of(const GgufWriter::Metadata& metadata, const std::vector<RandomTensor>& tensors) {
  ModelDescription out;
  out.format = "gguf";
  out.values = json::object();
  std::string name;
  for (const auto& [key, value] : metadata) {
    if (key == "general.architecture") name = std::get<std::string>(value);
  }
  out.names = {name};
  for (const auto& [key, value] : metadata) {
    if (!key.starts_with(name + ".")) continue;
    std::string path = "/" + key.substr(name.size() + 1);
    std::replace(path.begin(), path.end(), '.', '/');
    std::visit([&, p = json::json_pointer(path)](const auto& v) { out.values[p] = v; }, value);
  }
  for (const auto& t : tensors) out.values["tensors"][t.declaration.name] = t.declaration.shape;
  return out;
}

void expect_same(const PartSpec& got, const PartSpec& want) {
  EXPECT_EQ(got.plugin, want.plugin);
  ASSERT_EQ(got.options.size(), want.options.size());
  for (size_t i = 0; i < got.options.size(); ++i) {
    EXPECT_EQ(got.options[i].key, want.options[i].key);
    EXPECT_EQ(to_text(got.options[i].value), to_text(want.options[i].value)) << got.options[i].key;
  }
}

void expect_same(const LayerSpec& got, const LayerSpec& want) {
  const AttentionSpec& a = got.attention;
  const AttentionSpec& b = want.attention;
  EXPECT_EQ(std::tuple(a.kind, a.n_heads, a.n_kv_heads, a.k_dim, a.v_dim, a.q_rank, a.kv_rank, a.nope_dim, a.rope_dim),
            std::tuple(b.kind, b.n_heads, b.n_kv_heads, b.k_dim, b.v_dim, b.q_rank, b.kv_rank, b.nope_dim, b.rope_dim));
  EXPECT_EQ(std::tuple(a.window, a.sinks, a.qkv_bias, a.o_bias, a.qk_norm),
            std::tuple(b.window, b.sinks, b.qkv_bias, b.o_bias, b.qk_norm));
  EXPECT_NEAR(a.scale, b.scale, 1e-6F * b.scale);
  EXPECT_NEAR(a.rope.scale, b.rope.scale, 1e-6F * b.rope.scale);
  ASSERT_EQ(a.rope.inv_freq.size(), b.rope.inv_freq.size());
  for (size_t i = 0; i < b.rope.inv_freq.size(); ++i)
    EXPECT_NEAR(a.rope.inv_freq[i], b.rope.inv_freq[i], 1e-6F * b.rope.inv_freq[i]);
  EXPECT_EQ(std::tuple(got.ffn.n_experts, got.ffn.d_expert, got.ffn.d_shared),
            std::tuple(want.ffn.n_experts, want.ffn.d_expert, want.ffn.d_shared));
  if (want.ffn.n_experts > 0) expect_same(got.ffn.router, want.ffn.router);
  expect_same(got.ffn.expert, want.ffn.expert);
}

TEST_P(Shapes, config_json_and_the_metadata_of_gguf_describe_one_model) {
  const auto want = library().describe(shape_.config);
  ASSERT_TRUE(want.ok()) << want.error().message;
  const auto tensors = random_tensors(outline("gguf"), "bf16", true);
  ASSERT_TRUE(tensors.ok());
  const auto got = library().describe(description_of(shape_.gguf, *tensors));
  ASSERT_TRUE(got.ok()) << got.error().message;
  EXPECT_EQ(got->architecture, want->architecture);
  EXPECT_EQ(std::tuple(got->d_model, got->n_vocab, got->context, got->tied),
            std::tuple(want->d_model, want->n_vocab, want->context, want->tied));
  EXPECT_NEAR(got->norm_eps, want->norm_eps, 1e-6F * want->norm_eps);
  ASSERT_EQ(got->layers.size(), want->layers.size());
  for (size_t l = 0; l < want->layers.size() && !HasFailure(); ++l) {
    SCOPED_TRACE(l);
    expect_same(got->layers[l], want->layers[l]);
  }
}

INSTANTIATE_TEST_SUITE_P(All, Shapes, ::testing::ValuesIn(shape_names(kShapes)), [](const auto& test) {
  std::string name = test.param;
  std::replace_if(
      name.begin(), name.end(), [](char c) { return std::isalnum(static_cast<unsigned char>(c)) == 0; }, '_');
  return name;
});

}  // namespace
}  // namespace patchbay::e2e
