#include "core/model/random/shape.hpp"

#include <gtest/gtest.h>

#include <fstream>

namespace patchbay {
namespace {

namespace fs = std::filesystem;
const std::vector<fs::path> kFolders = {PATCHBAY_SOURCE_DIR "/configs/shapes"};

struct ScratchFile {
  explicit ScratchFile(std::string_view text) {
    std::string name = ::testing::TempDir() + "shape_XXXXXX.toml";
    const int fd = mkstemps(name.data(), 5);
    EXPECT_GE(fd, 0);
    path = name;
    std::ofstream(path) << text;
  }
  ~ScratchFile() { fs::remove(path); }
  fs::path path;
};

TEST(Shape, every_file_holds_a_config_and_the_metadata_of_gguf) {
  const auto names = shape_names(kFolders);
  EXPECT_GE(names.size(), 10U);
  for (const auto& name : names) {
    const auto shape = load_shape(name, kFolders);
    ASSERT_TRUE(shape.ok()) << shape.error().message;
    EXPECT_EQ(shape->name, name);
    EXPECT_FALSE(shape->doc.empty()) << name;
    EXPECT_TRUE(shape->config.contains("architectures")) << name;
    EXPECT_FALSE(shape->gguf.empty()) << name;
  }
}

TEST(Shape, a_path_to_a_config_json_or_its_folder_is_a_shape_without_gguf) {
  const fs::path dir = PATCHBAY_SOURCE_DIR "/tests/golden/mixtral";
  for (const fs::path& path : {dir, dir / "config.json"}) {
    const auto shape = load_shape(path.string(), kFolders);
    ASSERT_TRUE(shape.ok()) << shape.error().message;
    EXPECT_EQ(shape->name, "mixtral");
    EXPECT_EQ(shape->config.at("num_local_experts"), 8);
    EXPECT_TRUE(shape->gguf.empty());
  }
}

TEST(Shape, metadata_have_the_types_that_converters_write) {
  const ScratchFile file(
      "[config]\na = 1\n[gguf]\ngeneral.architecture = \"x\"\n[gguf.x]\nn = 7\neps = 1e-6\nflag = true\n");
  const auto shape = load_shape(file.path.string(), {});
  ASSERT_TRUE(shape.ok()) << shape.error().message;
  const auto find = [&](std::string_view key) {
    const auto at = std::find_if(shape->gguf.begin(), shape->gguf.end(), [&](const auto& m) { return m.first == key; });
    return at == shape->gguf.end() ? GgufWriterValue(uint8_t{0}) : at->second;
  };
  EXPECT_EQ(find("general.architecture"), GgufWriterValue(std::string("x")));
  EXPECT_EQ(find("x.n"), GgufWriterValue(uint32_t{7}));
  EXPECT_EQ(find("x.eps"), GgufWriterValue(1e-6F));
  EXPECT_EQ(find("x.flag"), GgufWriterValue(true));
}

TEST(Shape, an_unknown_name_is_refused_with_the_nearest) {
  const auto shape = load_shape("olmoe-1b-7", kFolders);
  ASSERT_FALSE(shape.ok());
  EXPECT_EQ(shape.error().code, MOE_NOT_FOUND);
  EXPECT_NE(shape.error().message.find("did you mean \"olmoe-1b-7b\"?"), std::string::npos) << shape.error().message;
}

TEST(Shape, a_wrong_file_is_refused_with_its_place) {
  const ScratchFile none("[gguf]\na = 1\n");
  EXPECT_NE(load_shape(none.path.string(), {}).error().message.find("config: expected a table"), std::string::npos);
  const ScratchFile negative("[config]\n[gguf]\na = -1\n");
  EXPECT_NE(load_shape(negative.path.string(), {}).error().message.find("line 3, column 5: a: expected"),
            std::string::npos);
  const ScratchFile unknown("[config]\n[gguff]\na = 1\n");
  EXPECT_NE(load_shape(unknown.path.string(), {}).error().message.find("did you mean \"gguf\"?"), std::string::npos);
}

}  // namespace
}  // namespace patchbay
