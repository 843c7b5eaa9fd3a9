#include "core/model/checkpoint/gguf_writer.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include "core/model/checkpoint/gguf.hpp"
#include "files.hpp"

namespace patchbay {
namespace {

using test::TempDir;

size_t n_files(const TempDir& dir) {
  return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(dir.path()), {}));
}

TEST(GgufWriter, what_it_writes_is_read_back) {
  const TempDir dir;
  const auto path = dir.path() / "m.gguf";
  const GgufWriter::Metadata metadata = {{"u8", uint8_t{200}},
                                         {"i8", int8_t{-3}},
                                         {"u16", uint16_t{60000}},
                                         {"i16", int16_t{-300}},
                                         {"u32", uint32_t{4000000000}},
                                         {"i32", int32_t{-7}},
                                         {"f32", 1.5F},
                                         {"bool", true},
                                         {"string", std::string("Grüße")},
                                         {"u64", uint64_t{1} << 40},
                                         {"i64", int64_t{-1} << 40},
                                         {"f64", 0.1},
                                         {"strings", std::vector<std::string>{"a", "", "é"}},
                                         {"floats", std::vector<float>{1, 2}},
                                         {"ints", std::vector<int32_t>{-1, 5}}};
  auto writer = GgufWriter::create(
      path, metadata, {{"a", "f32", {2, 3}}, {"q", "q8_0", {3, 64}}, {"s", "f16", {}}, {"e", "f32", {0, 2}}});
  ASSERT_TRUE(writer.ok()) << writer.error().message;
  const std::vector<std::byte> bytes(204, std::byte{7});
  ASSERT_TRUE(writer->write("q", std::span(bytes).first(100)).ok());
  ASSERT_TRUE(writer->write("a", std::span(bytes).first(24)).ok());
  ASSERT_TRUE(writer->write("s", std::span(bytes).first(2)).ok());
  ASSERT_TRUE(writer->write("q", std::span(bytes).first(104)).ok());
  EXPECT_FALSE(std::filesystem::exists(path));
  ASSERT_TRUE(writer->finish().ok());
  EXPECT_EQ(n_files(dir), 1U);

  const auto file = open_gguf(path);
  ASSERT_TRUE(file.ok()) << file.error().message;
  EXPECT_EQ((*file)->metadata().size(), metadata.size());
  const auto get = [&](std::string_view key) { return *(*file)->find_metadata(key); };
  EXPECT_EQ(get("u8").integer(), 200);
  EXPECT_EQ(get("i8").integer(), -3);
  EXPECT_EQ(get("u16").integer(), 60000);
  EXPECT_EQ(get("i16").integer(), -300);
  EXPECT_EQ(get("u32").integer(), 4000000000);
  EXPECT_EQ(get("i32").integer(), -7);
  EXPECT_EQ(get("f32").number(), 1.5);
  EXPECT_EQ(get("bool").boolean(), true);
  EXPECT_EQ(get("string").string(), "Grüße");
  EXPECT_EQ(get("u64").integer(), int64_t{1} << 40);
  EXPECT_EQ(get("i64").integer(), -(int64_t{1} << 40));
  EXPECT_EQ(get("f64").number(), 0.1);
  EXPECT_EQ(get("i16").type(), GgufType::kI16);
  EXPECT_EQ(get("strings").array()->strings(), (std::vector<std::string_view>{"a", "", "é"}));
  std::vector<double> numbers;
  const auto collect = [&](const GgufValue& v) { numbers.push_back(*v.number()); };
  get("floats").array()->for_each(collect);
  get("ints").array()->for_each(collect);
  EXPECT_EQ(numbers, (std::vector<double>{1, 2, -1, 5}));
  const TensorInfo* q = (*file)->find("q");
  ASSERT_NE(q, nullptr);
  EXPECT_EQ(q->encoding, "q8_0");
  EXPECT_EQ(shape_text(q->shape), "[3, 64]");
  EXPECT_TRUE(std::equal(bytes.begin(), bytes.end(), q->data, q->data + q->bytes));
  EXPECT_EQ(shape_text((*file)->find("a")->shape), "[2, 3]");
  EXPECT_EQ((*file)->find("e")->bytes, 0U);
}

TEST(GgufWriter, nothing_is_left_without_all_bytes) {
  const TempDir dir;
  {
    auto writer = GgufWriter::create(dir.path() / "m.gguf", {}, {{"a", "f32", {2}}});
    ASSERT_TRUE(writer.ok());
    const std::vector<std::byte> bytes(9);
    ASSERT_TRUE(writer->write("a", std::span(bytes).first(4)).ok());
    EXPECT_EQ(writer->finish().error().message, "tensor \"a\": expected 8 bytes, got 4");
    EXPECT_EQ(writer->write("a", bytes).error().code, MOE_FAILED_PRECONDITION);
  }
  EXPECT_EQ(n_files(dir), 0U);
}

TEST(GgufWriter, declarations_and_metadata_are_checked) {
  const TempDir dir;
  const auto error = [&](const GgufWriter::Metadata& metadata, const std::vector<TensorDeclaration>& tensors) {
    const auto r = GgufWriter::create(dir.path() / "m.gguf", metadata, tensors);
    return r.ok() ? "" : r.error().message;
  };
  EXPECT_EQ(error({}, {}), "");
  EXPECT_EQ(error({}, {{"a", "f8_e4m3", {1}}}), "tensor \"a\": expected an encoding of the format, got \"f8_e4m3\"");
  EXPECT_EQ(error({}, {{"a", "q4_0", {31}}}),
            "tensor \"a\": shape: expected at most 4 dimensions and rows of a multiple of 32, got [31]");
  EXPECT_EQ(error({}, {{"a", "f32", {1}}, {"a", "f32", {1}}}), "tensor \"a\": expected once, got it twice");
  EXPECT_FALSE(error({}, {{"a", "f32", {-1}}}).empty());
  EXPECT_FALSE(error({}, {{"a", "f32", {int64_t{1} << 40, int64_t{1} << 40}}}).empty());
  EXPECT_FALSE(error({}, {{"", "f32", {1}}}).empty());
  EXPECT_EQ(error({{"k", true}, {"k", true}}, {}), "metadata \"k\": expected once, got it twice");
  EXPECT_FALSE(error({{"general.alignment", uint32_t{64}}}, {}).empty());
}

}  // namespace
}  // namespace patchbay
