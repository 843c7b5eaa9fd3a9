#include "core/model/checkpoint/gguf.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "files.hpp"
#include "moe/sdk/codec.hpp"

namespace patchbay {
namespace {

using test::raw;
using test::slurp;
using test::TempDir;

const std::filesystem::path kData = std::filesystem::path(PATCHBAY_SOURCE_DIR) / "tests/data/checkpoint";

std::string error_of(std::string_view file) {
  TensorTable table;
  const auto r = read_gguf({reinterpret_cast<const std::byte*>(file.data()), file.size()}, &table);
  return r.ok() ? "" : r.error().message;
}

std::string start(uint64_t n_tensors, uint64_t n_metadata, uint32_t version = 3) {
  return "GGUF" + raw(version) + raw(n_tensors) + raw(n_metadata);
}
std::string text(std::string_view s) { return raw<uint64_t>(s.size()) + std::string(s); }
std::string pair(std::string_view key, uint32_t type, std::string_view value) {
  return text(key) + raw(type) + std::string(value);
}
std::string tensor(std::string_view name, std::vector<uint64_t> dims, uint32_t type, uint64_t offset) {
  std::string out = text(name) + raw(static_cast<uint32_t>(dims.size()));
  for (const uint64_t d : dims) out += raw(d);
  return out + raw(type) + raw(offset);
}
// Descriptions, padding to 32, data.
std::string file(std::vector<std::string> tensors, size_t n_data) {
  std::string out = start(tensors.size(), 0);
  for (const std::string& t : tensors) out += t;
  out.resize((out.size() + 31) / 32 * 32);
  return out + std::string(n_data, '\1');
}

TEST(Gguf, reads_metadata_of_every_type_as_the_python_package_writes_it) {
  const auto r = open_gguf(kData / "python.gguf");
  ASSERT_TRUE(r.ok()) << r.error().message;
  const GgufFile& f = **r;
  EXPECT_EQ(f.find_metadata("t.u8")->integer(), 250);
  EXPECT_EQ(f.find_metadata("t.i8")->integer(), -5);
  EXPECT_EQ(f.find_metadata("t.u16")->integer(), 65000);
  EXPECT_EQ(f.find_metadata("t.i16")->integer(), -30000);
  EXPECT_EQ(f.find_metadata("t.u32")->integer(), 4000000000);
  EXPECT_EQ(f.find_metadata("t.i32")->integer(), -2000000000);
  EXPECT_EQ(f.find_metadata("t.f32")->number(), 1.5);
  EXPECT_EQ(f.find_metadata("t.f64")->number(), 0.1);
  EXPECT_EQ(f.find_metadata("t.bool")->boolean(), true);
  EXPECT_EQ(f.find_metadata("t.string")->string(), "Grüße");
  EXPECT_EQ(f.find_metadata("t.i64")->integer(), INT64_MIN);
  EXPECT_EQ(std::get<uint64_t>(f.find_metadata("t.u64")->value()), UINT64_MAX);
  EXPECT_EQ(f.find_metadata("t.u64")->integer(), std::nullopt);
  EXPECT_EQ(f.find_metadata("t.u8")->number(), 250.0);
  EXPECT_EQ(f.find_metadata("t.u8")->string(), std::nullopt);
  EXPECT_EQ(f.find_metadata("t.none"), nullptr);
  const auto tokens = f.find_metadata("tokenizer.ggml.tokens")->array()->strings();
  EXPECT_EQ(tokens, (std::vector<std::string_view>{"<s>", "a", "é", ""}));
  EXPECT_EQ(f.find_metadata("tokenizer.ggml.scores")->array()->strings(), std::nullopt);
  std::vector<double> scores;
  f.find_metadata("tokenizer.ggml.scores")->array()->for_each([&](const GgufValue& v) {
    scores.push_back(*v.number());
  });
  EXPECT_EQ(scores, (std::vector<double>{0, -1, -2.5, 3}));
}

// The judge: gguf.quants.dequantize of the same bytes, for every encoding that both know.
TEST(Gguf, every_encoding_decodes_to_the_bits_of_the_python_package) {
  const auto r = open_checkpoint(kData / "python.gguf");
  const auto e = open_checkpoint(kData / "python.gguf.expected.safetensors");
  ASSERT_TRUE(r.ok()) << r.error().message;
  ASSERT_TRUE(e.ok()) << e.error().message;
  std::vector<std::string_view> seen;
  for (const TensorInfo& want : (*e)->tensors()) {
    const TensorInfo* got = (*r)->find(want.name);
    ASSERT_NE(got, nullptr) << want.name;
    ASSERT_EQ(want.name.substr(0, want.name.find('.')), got->encoding);
    const moe::Encoding* encoding = moe::find_encoding(got->encoding);
    ASSERT_NE(encoding, nullptr) << got->encoding;
    const auto n = static_cast<size_t>(element_count(got->shape));
    ASSERT_EQ(n * 4, want.bytes);
    ASSERT_EQ(n / encoding->block_elements * encoding->block_bytes, got->bytes);
    std::vector<float> values(n);
    moe::decode_row(*encoding, got->data, n, values.data());
    EXPECT_EQ(std::memcmp(values.data(), want.data, want.bytes), 0) << want.name;
    if (std::find(seen.begin(), seen.end(), got->encoding) == seen.end()) seen.push_back(got->encoding);
  }
  EXPECT_EQ(seen.size(), std::size(moe::kEncodings) - 2);  // all but f8_e4m3 and f8_e8m0, which GGUF does not have
}

TEST(Gguf, shapes_are_outermost_first) {
  const auto r = open_checkpoint(kData / "python.gguf");
  ASSERT_TRUE(r.ok()) << r.error().message;
  const TensorInfo* t = (*r)->find("i32");
  ASSERT_NE(t, nullptr);
  EXPECT_EQ(shape_text(t->shape), "[3, 2]");
  EXPECT_EQ(t->encoding, "i32");
}

TEST(Gguf, any_part_of_a_split_file_opens_them_all) {
  for (const char* part : {"split-00001-of-00003.gguf", "split-00002-of-00003.gguf", "split-00003-of-00003.gguf"}) {
    const auto r = open_gguf(kData / part);
    ASSERT_TRUE(r.ok()) << r.error().message;
    EXPECT_EQ((*r)->tensors().size(), 5U);
    for (int i = 0; i < 5; ++i) {
      const TensorInfo* t = (*r)->find(fmt::format("w{}", i));
      ASSERT_NE(t, nullptr);
      float value = -1;
      std::memcpy(&value, t->data, 4);
      EXPECT_EQ(value, static_cast<float>(i));
    }
    EXPECT_EQ((*r)->find_metadata("t.string")->string(), "first");
  }
}

TEST(Gguf, missing_or_swapped_parts_are_named) {
  const TempDir dir;
  const std::string one = slurp(kData / "split-00001-of-00003.gguf");
  const std::string two = slurp(kData / "split-00002-of-00003.gguf");
  dir.write("m-00001-of-00003.gguf", one);
  EXPECT_NE(open_gguf(dir.path() / "m-00001-of-00003.gguf").error().message.find("m-00002-of-00003.gguf: No such file"),
            std::string::npos);
  dir.write("m-00002-of-00003.gguf", one);
  EXPECT_NE(open_gguf(dir.path() / "m-00001-of-00003.gguf").error().message.find("in one part, got it in two"),
            std::string::npos);
  dir.write("m-00001-of-00003.gguf", two);
  EXPECT_NE(open_gguf(dir.path() / "m-00001-of-00003.gguf").error().message.find("expected split.no = 0"),
            std::string::npos);
  EXPECT_NE(open_gguf(dir.write("renamed.gguf", one))
                .error()
                .message.find("expected a name that ends in -00001-of-00003.gguf"),
            std::string::npos);
}

TEST(Gguf, counts_are_held_against_the_file_before_anything_is_allocated) {
  EXPECT_EQ(error_of(start(uint64_t{1} << 60, 0)), "n_tensors: expected at most 1048576, got 1152921504606846976");
  EXPECT_EQ(error_of(start(1000, 0) + std::string(50, '\0')),
            "n_tensors: expected at most the 2 that fit into the file's last 50 bytes, got 1000");
  EXPECT_EQ(error_of(start(0, uint64_t{1} << 63)), "n_metadata: expected at most 65536, got 9223372036854775808");
  EXPECT_EQ(error_of(start(0, 2)), "n_metadata: expected at most the 0 that fit into the file's last 0 bytes, got 2");
  EXPECT_EQ(
      error_of(start(0, 1) + pair("a", 9, raw<uint32_t>(4) + raw<uint64_t>(uint64_t{1} << 62))),
      "metadata \"a\": length: expected at most the 0 that fit into the file's last 0 bytes, got 4611686018427387904");
  EXPECT_EQ(
      error_of(start(0, 1) + pair("a", 9, raw<uint32_t>(8) + raw<uint64_t>(uint64_t{1} << 62) + text("x"))),
      "metadata \"a\": length: expected at most the 1 that fit into the file's last 9 bytes, got 4611686018427387904");
}

TEST(Gguf, string_lengths_are_held_against_the_file) {
  EXPECT_EQ(error_of(start(0, 1) + raw<uint64_t>(uint64_t{1} << 63) + std::string(20, 'x')),
            "metadata 0: key: expected 9223372036854775808 more bytes at byte 32, got 20");
  EXPECT_EQ(error_of(start(0, 1) + pair("a", 8, raw<uint64_t>(UINT64_MAX) + "x")),
            "metadata \"a\": expected 18446744073709551615 more bytes at byte 45, got 1");
  EXPECT_EQ(error_of(start(1, 0) + raw<uint64_t>(uint64_t{1} << 63) + std::string(30, 'x')),
            "tensor 0: name: expected 9223372036854775808 more bytes at byte 32, got 30");
}

TEST(Gguf, metadata_is_typed_and_unique) {
  EXPECT_EQ(error_of(start(0, 1) + pair("a", 13, "1")), "metadata \"a\": expected a type below 13, got 13");
  EXPECT_EQ(error_of(start(0, 1) + pair("a", 9, raw<uint32_t>(99) + raw<uint64_t>(0))),
            "metadata \"a\": expected a type below 13, got 99");
  EXPECT_EQ(error_of(start(0, 1) + pair("a", 9, raw<uint32_t>(9) + raw<uint64_t>(1))),
            "metadata \"a\": expected an array of plain values, got an array of arrays");
  EXPECT_EQ(error_of(start(0, 1) + pair("a", 7, "\2")), "metadata \"a\": expected a bool of 0 or 1, got another");
  EXPECT_EQ(error_of(start(0, 2) + pair("a", 0, "1") + pair("a", 0, "1")),
            "metadata \"a\": expected once, got it twice");
  EXPECT_EQ(error_of(start(0, 1) + pair("", 4, raw<uint32_t>(1))), "metadata 0: expected a key, got an empty one");
}

TEST(Gguf, alignment_is_a_power_of_two) {
  const auto alignment = [](uint32_t type, std::string_view value) {
    return error_of(start(0, 1) + pair("general.alignment", type, value));
  };
  EXPECT_EQ(alignment(4, raw<uint32_t>(64)), "");
  EXPECT_NE(alignment(4, raw<uint32_t>(0)).find("expected a power of two as u32, got 0"), std::string::npos);
  EXPECT_NE(alignment(4, raw<uint32_t>(48)).find("expected a power of two as u32, got 48"), std::string::npos);
  EXPECT_NE(alignment(8, text("32")).find("got another type"), std::string::npos);
}

TEST(Gguf, magic_and_version_are_checked) {
  EXPECT_EQ(error_of("GGUX" + start(0, 0).substr(4)), "magic: expected \"GGUF\", got something else");
  EXPECT_EQ(error_of(start(0, 0, 1)), "version: expected 2 or 3, got 1");
  EXPECT_EQ(error_of(start(0, 0, 4)), "version: expected 2 or 3, got 4");
  EXPECT_EQ(error_of(start(0, 0, 0x03000000)), "version: expected 2 or 3, got a big-endian file");
  EXPECT_EQ(error_of(start(0, 0, 2)), "");
  EXPECT_EQ(error_of(start(0, 0, 3)), "");
}

TEST(Gguf, tensors_lie_aligned_inside_the_file_and_apart) {
  EXPECT_EQ(error_of(file({tensor("a", {8}, 0, 0), tensor("b", {8}, 0, 32)}, 64)), "");
  EXPECT_EQ(error_of(file({tensor("b", {8}, 0, 32), tensor("a", {8}, 0, 0)}, 64)), "");
  EXPECT_EQ(error_of(file({tensor("a", {9}, 0, 0), tensor("b", {8}, 0, 32)}, 64)),
            "tensor \"b\": expected to begin after tensor \"a\" ends (no overlap), got 4 bytes before");
  EXPECT_EQ(error_of(file({tensor("a", {8}, 0, 4)}, 64)), "tensor \"a\": offset: expected a multiple of 32, got 4");
  EXPECT_EQ(error_of(file({tensor("a", {8}, 0, 64)}, 64)),
            "tensor \"a\": expected 32 bytes at offset 64 within the 64 bytes of data, got fewer");
  EXPECT_NE(error_of(file({tensor("a", {8}, 0, UINT64_MAX - 31)}, 64)).find("got fewer"), std::string::npos);
  EXPECT_EQ(error_of(file({tensor("a", {8}, 0, 0), tensor("a", {8}, 0, 32)}, 64)),
            "tensor \"a\": expected once, got it twice");
}

TEST(Gguf, sizes_are_computed_without_wrapping) {
  const auto shape = [](std::vector<uint64_t> dims, uint32_t type) {
    return error_of(file({tensor("w", std::move(dims), type, 0)}, 64));
  };
  const uint64_t k32 = uint64_t{1} << 32;
  for (const std::vector<uint64_t>& dims :
       {std::vector{k32, k32}, std::vector{k32, k32, uint64_t{0}}, std::vector{(uint64_t{1} << 62) + 1},
        std::vector{UINT64_MAX}, std::vector{uint64_t{1} << 63, uint64_t{2}}}) {
    EXPECT_NE(shape(dims, 0).find("tensor \"w\": expected a size below 2^63"), std::string::npos) << shape(dims, 0);
  }
  EXPECT_EQ(shape({0, 5}, 0), "");
  EXPECT_EQ(shape({}, 0), "");
  EXPECT_EQ(shape({33}, 2), "tensor \"w\": expected rows of a multiple of 32 elements for q4_0, got 33");
  EXPECT_EQ(shape({1, 1, 1, 1, 1}, 0), "tensor \"w\": expected at most 4 dimensions, got 5");
  EXPECT_EQ(error_of(file({text("w") + raw(UINT32_MAX) + std::string(16, '\0')}, 0)),
            "tensor \"w\": expected at most 4 dimensions, got 4294967295");
  for (const uint32_t type : {4U, 5U, 31U, 99U, UINT32_MAX}) {
    EXPECT_EQ(shape({32}, type), fmt::format("tensor \"w\": expected one of the format's types, got {}", type));
  }
}

TEST(Gguf, truncation_at_any_byte_is_an_error) {
  const std::string whole = slurp(kData / "small.gguf");
  ASSERT_EQ(error_of(whole), "");
  TensorTable table;
  ASSERT_TRUE(read_gguf({reinterpret_cast<const std::byte*>(whole.data()), whole.size()}, &table).ok());
  size_t end = 0;  // after the last tensor there is only padding, which may be missing
  for (const TensorInfo& t : table.tensors())
    end = std::max(end, static_cast<size_t>(t.data + t.bytes - reinterpret_cast<const std::byte*>(whole.data())));
  ASSERT_GT(end, 300U);
  for (size_t n = 0; n < end; ++n) EXPECT_FALSE(error_of(std::string_view(whole).substr(0, n)).empty()) << n;
}

TEST(Gguf, names_of_a_tensor_without_utf8_are_printable_in_messages) {
  EXPECT_EQ(error_of(file({tensor("\xff\1x", {8}, 99, 0)}, 64)),
            "tensor \"??x\": expected one of the format's types, got 99");
}

}  // namespace
}  // namespace patchbay
