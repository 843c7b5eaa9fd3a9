#include "core/model/checkpoint/safetensors.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>

#include "files.hpp"

namespace patchbay {
namespace {

using test::raw;
using test::safetensors;
using test::slurp;
using test::TempDir;

const std::filesystem::path kData = std::filesystem::path(PATCHBAY_SOURCE_DIR) / "tests/data/checkpoint";

std::string error_of(std::string_view file) {
  TensorTable table;
  const auto r = read_safetensors({reinterpret_cast<const std::byte*>(file.data()), file.size()}, nullptr, &table);
  return r.ok() ? "" : r.error().message;
}
std::string error_of(std::string_view header, size_t n_data) { return error_of(safetensors(header, n_data)); }

std::vector<int64_t> dims(const TensorInfo& tensor) { return {tensor.shape.begin(), tensor.shape.end()}; }

constexpr std::string_view kGood =
    R"({"__metadata__":{"format":"pt"},"b":{"dtype":"U8","shape":[2],"data_offsets":[4,6]},)"
    R"("a\u00e9":{"data_offsets":[0,4],"shape":[1,2],"dtype":"BF16"},"s":{"dtype":"F32","shape":[],"data_offsets":[6,10]}}  )";

TEST(Safetensors, reads_names_shapes_bytes_and_metadata) {
  const std::string file = safetensors(kGood, 10);
  TensorTable table;
  const auto r = read_safetensors({reinterpret_cast<const std::byte*>(file.data()), file.size()}, nullptr, &table);
  ASSERT_TRUE(r.ok()) << r.error().message;
  ASSERT_EQ(r->size(), 1U);
  EXPECT_EQ((*r)[0].second, "pt");
  const TensorInfo* a = table.find("aé");
  ASSERT_NE(a, nullptr);
  EXPECT_EQ(dims(*a), (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(a->encoding, "bf16");
  EXPECT_EQ(a->bytes, 4U);
  EXPECT_EQ(reinterpret_cast<const char*>(a->data), file.data() + 8 + kGood.size());
  EXPECT_EQ(table.find("s")->shape.size(), 0U);
  EXPECT_EQ(table.find("t"), nullptr);
}

TEST(Safetensors, reads_what_the_python_package_writes) {
  const auto r = open_checkpoint(kData / "python.safetensors");
  ASSERT_TRUE(r.ok()) << r.error().message;
  const Checkpoint& file = **r;
  EXPECT_EQ(file.file_bytes(), std::filesystem::file_size(kData / "python.safetensors"));
  const struct {
    std::string_view name, encoding;
    std::vector<int64_t> shape;
  } want[] = {{"f32", "f32", {2, 3}}, {"f16", "f16", {5}},     {"bf16", "bf16", {2, 2}}, {"f8", "f8_e4m3", {3, 1}},
              {"i32", "i32", {4}},    {"u8", "u8", {1, 2, 3}}, {"i64", "i64", {1}},      {"bool", "bool", {2}},
              {"scalar", "f32", {}},  {"empty", "f32", {0, 3}}};
  ASSERT_EQ(file.tensors().size(), std::size(want));
  for (const auto& w : want) {
    const TensorInfo* t = file.find(w.name);
    ASSERT_NE(t, nullptr) << w.name;
    EXPECT_EQ(t->encoding, w.encoding);
    EXPECT_EQ(dims(*t), w.shape);
  }
  const float values[] = {0, 1, 2, 3, 4, 5};
  EXPECT_EQ(std::memcmp(file.find("f32")->data, values, sizeof(values)), 0);
}

TEST(Safetensors, length_of_the_header_is_bounded_by_the_limit_and_the_file) {
  EXPECT_EQ(error_of(raw<uint64_t>(uint64_t{1} << 63) + "{}"),
            "header length: expected at most 100000000 bytes, got 9223372036854775808");
  EXPECT_EQ(error_of(raw<uint64_t>(100'000'001) + "{}"),
            "header length: expected at most 100000000 bytes, got 100000001");
  EXPECT_EQ(error_of(raw<uint64_t>(3) + "{}"), "header length: expected at most the file's other 2 bytes, got 3");
  EXPECT_EQ(error_of(""), "size: expected at least the 8 bytes of the header's length, got 0");
  EXPECT_EQ(error_of(safetensors("", 0)), "header: expected to begin with '{', got something else");
  EXPECT_EQ(error_of(safetensors(" {}", 0)), "header: expected to begin with '{', got something else");
  EXPECT_EQ(error_of(safetensors("{}", 0)), "");
}

TEST(Safetensors, data_is_covered_without_overlap_hole_or_trailer) {
  const auto two = [](std::string_view offsets) {
    return fmt::format(
        R"({{"a":{{"dtype":"U8","shape":[4],"data_offsets":[0,4]}},"b":{{"dtype":"U8","shape":[4],"data_offsets":{}}}}})",
        offsets);
  };
  EXPECT_EQ(error_of(two("[4,8]"), 8), "");
  EXPECT_EQ(error_of(two("[2,6]"), 8),
            "tensor \"b\": data_offsets: expected to begin at 4 where tensor \"a\" ends (no overlap), got 2");
  EXPECT_EQ(error_of(two("[5,9]"), 9),
            "tensor \"b\": data_offsets: expected to begin at 4 where tensor \"a\" ends (no hole), got 5");
  EXPECT_EQ(error_of(two("[4,8]"), 9), "data: expected 8 bytes, which the tensors cover, got 9");
  EXPECT_EQ(error_of(two("[4,8]"), 7), "tensor \"b\": data_offsets: expected within the 7 bytes of data, got [4, 8]");
  EXPECT_EQ(error_of(two("[8,4]"), 8), "tensor \"b\": data_offsets: expected begin <= end, got [8, 4]");
  EXPECT_EQ(error_of(two("[18446744073709551612,18446744073709551615]"), 8),
            "tensor \"b\": data_offsets: expected within the 8 bytes of data, got [18446744073709551612, "
            "18446744073709551615]");
  EXPECT_EQ(error_of(R"({"b":{"dtype":"U8","shape":[4],"data_offsets":[1,5]}})", 5),
            "tensor \"b\": data_offsets: expected to begin at 0 where the header ends (no hole), got 1");
}

TEST(Safetensors, empty_tensors_may_lie_at_any_border_but_not_inside_another) {
  const auto at = [](int offset) {
    return fmt::format(R"({{"a":{{"dtype":"U8","shape":[4],"data_offsets":[0,4]}},)"
                       R"("e":{{"dtype":"F32","shape":[3,0],"data_offsets":[{0},{0}]}}}})",
                       offset);
  };
  EXPECT_EQ(error_of(at(0), 4), "");
  EXPECT_EQ(error_of(at(4), 4), "");
  EXPECT_NE(error_of(at(2), 4).find("no overlap"), std::string::npos);
}

TEST(Safetensors, shape_is_checked_without_wrapping) {
  const auto shape = [](std::string_view dims, std::string_view dtype = "F32") {
    return error_of(fmt::format(R"({{"w":{{"dtype":"{}","shape":{},"data_offsets":[0,4]}}}})", dtype, dims), 4);
  };
  EXPECT_EQ(shape("[1]"), "");
  EXPECT_EQ(shape("[2]"), "tensor \"w\": data_offsets: expected 8 bytes for [2] of F32, got 4");
  // 2^62 + 1 elements of 4 bytes wrap to 4; 2^32 x 2^32 elements wrap to 0.
  for (const char* dims : {"[4611686018427387905]", "[4294967296,4294967296]", "[4294967296,4294967296,0]"}) {
    EXPECT_NE(shape(dims).find("tensor \"w\": shape: expected a whole number of bytes below 2^60"), std::string::npos)
        << shape(dims);
  }
  EXPECT_NE(shape("[9223372036854775808]").find("less than 2^63"), std::string::npos);
  EXPECT_NE(shape("[18446744073709551616]").find("below 2^64"), std::string::npos);
  EXPECT_NE(shape("[-1]").find("unsigned integer"), std::string::npos);
  EXPECT_NE(shape("[1.0]").find("unsigned integer"), std::string::npos);
  EXPECT_NE(shape("[1e0]").find("unsigned integer"), std::string::npos);
  EXPECT_NE(shape("[01]").find("unsigned integer"), std::string::npos);
  EXPECT_NE(shape("[1,1,1,1,1,1,1,1,1]").find("at most 8 dimensions"), std::string::npos);
  EXPECT_NE(shape("[3]", "F4").find("whole number of bytes"), std::string::npos);
  EXPECT_EQ(shape("[8]", "F4"), "");
}

TEST(Safetensors, unknown_dtype_and_unknown_or_missing_fields_are_named) {
  EXPECT_EQ(error_of(R"({"w":{"dtype":"F99","shape":[],"data_offsets":[0,4]}})", 4),
            "tensor \"w\": dtype: expected one of the format's, got \"F99\"");
  EXPECT_EQ(error_of(R"({"w":{"shape":[],"data_offsets":[0,4]}})", 4), "tensor \"w\": expected a dtype, got none");
  EXPECT_EQ(error_of(R"({"w":{"dtype":"F32","data_offsets":[0,4]}})", 4), "tensor \"w\": expected a shape, got none");
  EXPECT_EQ(error_of(R"({"w":{"dtype":"F32","shape":[]}})", 4),
            "tensor \"w\": data_offsets: expected 2 numbers, got 0");
  EXPECT_EQ(error_of(R"({"w":{"dtype":"F32","shape":[],"data_offsets":[0]}})", 4),
            "tensor \"w\": data_offsets: expected 2 numbers, got 1");
  EXPECT_EQ(error_of(R"({"w":{"dtype":"F32","shape":[],"data_offsets":[0,4,4]}})", 4),
            "tensor \"w\": data_offsets: expected 2 numbers, got more");
  EXPECT_EQ(error_of(R"({"w":{"dtype":"F32","shape":[],"data_offsets":[0,4],"x":1}})", 4),
            "tensor \"w\": expected dtype, shape and data_offsets, got \"x\"");
  EXPECT_NE(error_of(R"({"w":null})", 0).find("tensor \"w\": byte 5: expected '{', got 'n'"), std::string::npos);
}

TEST(Safetensors, keys_given_twice_are_refused_at_every_level) {
  const std::string_view entry = R"({"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
  EXPECT_EQ(error_of(fmt::format(R"({{"w":{0},"w":{0}}})", entry), 0),
            "tensor \"w\": expected once in the header, got it twice");
  EXPECT_EQ(error_of(fmt::format(R"({{"w":{0},"\u0077":{0}}})", entry), 0),
            "tensor \"w\": expected once in the header, got it twice");
  EXPECT_EQ(error_of(R"({"w":{"dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0]}})", 0),
            "tensor \"w\": dtype: expected once, got it twice");
  EXPECT_EQ(error_of(R"({"w":{"dtype":"U8","shape":[0],"shape":[0],"data_offsets":[0,0]}})", 0),
            "tensor \"w\": shape: expected once, got it twice");
  EXPECT_EQ(error_of(R"({"w":{"data_offsets":[0,0],"data_offsets":[0,0],"dtype":"U8","shape":[0]}})", 0),
            "tensor \"w\": data_offsets: expected once, got it twice");
  EXPECT_EQ(error_of(R"({"__metadata__":{"a":"1","a":"1"}})", 0),
            "__metadata__: key \"a\": expected once, got it twice");
  EXPECT_EQ(error_of(R"({"__metadata__":{},"__metadata__":{}})", 0),
            "__metadata__: expected once in the header, got it twice");
}

TEST(Safetensors, metadata_maps_strings_to_strings) {
  EXPECT_EQ(error_of(R"({"__metadata__":{"a":1}})", 0), "__metadata__: key \"a\": byte 21: expected a string, got '1'");
}

TEST(Safetensors, header_is_strict_json_in_utf8) {
  for (const std::string_view bad :
       {"{", "{]", "{\"a\"}", "{,}", "{} {}", "{}x", "{\"\x01\":{}}", "{\"\xff\":{}}", "{\"\xc0\x80\":{}}",
        "{\"\xed\xa0\x80\":{}}", "{\"\\ud800\":{}}", "{\"\\udc00\":{}}", "{\"\\x\":{}}", "{\"\\u12g4\":{}}", "{\"abc",
        "{\"abc\\", "{\"\xe2\x82"}) {
    EXPECT_FALSE(error_of(bad, 0).empty()) << bad;
  }
}

TEST(Safetensors, truncation_at_any_byte_is_an_error) {
  const std::string file = safetensors(kGood, 10);
  ASSERT_EQ(error_of(file), "");
  for (size_t n = 0; n < file.size(); ++n) EXPECT_FALSE(error_of(std::string_view(file).substr(0, n)).empty()) << n;
}

TEST(Safetensors, long_and_strange_names_are_cut_in_messages) {
  const std::string name(100000, 'x');
  const std::string message = error_of(fmt::format(R"({{"{}\u0000":{{}}}})", name), 0);
  EXPECT_LT(message.size(), 300U);
  EXPECT_NE(message.find("xxx"), std::string::npos);
}

// 10^6 tensors in the worst order for the layout check.
TEST(Safetensors, a_million_tensors_open_within_file_size_plus_64_mib) {
#ifdef PATCHBAY_SANITIZED
  GTEST_SKIP() << "a sanitizer's own memory is not the reader's";
#endif
  constexpr size_t kN = 1'000'000;
  std::string header = "{";
  for (size_t i = 0; i < kN; ++i) {
    const size_t at = kN - 1 - i;
    header += fmt::format(R"("layer.{}.w":{{"dtype":"U8","shape":[1],"data_offsets":[{},{}]}},)", i, at, at + 1);
  }
  header.back() = '}';
  const TempDir dir;
  const auto path = dir.write("model.safetensors", safetensors(header, kN));
  const size_t file_bytes = std::filesystem::file_size(path);
  header = {};
  // A child, so that its peak is its own.
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    rusage before{};
    rusage after{};
    ::getrusage(RUSAGE_SELF, &before);
    const auto begin = std::chrono::steady_clock::now();
    const auto file = open_checkpoint(path);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    ::getrusage(RUSAGE_SELF, &after);
    const size_t grown = static_cast<size_t>(after.ru_maxrss - before.ru_maxrss) * 1024;
    fmt::print("10^6 tensors: {:.3f} s, peak grew by {} MiB, file {} MiB\n", seconds, grown >> 20, file_bytes >> 20);
    std::fflush(stdout);
    const bool good = file.ok() && (*file)->tensors().size() == kN && (*file)->find("layer.999999.w") != nullptr &&
                      grown <= file_bytes + (size_t{64} << 20) &&
                      seconds < 30;  // a bound on the order of growth, not a timing
    ::_exit(good ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST(Safetensors, more_tensors_than_the_limit_are_refused) {
  std::string header = "{";
  for (size_t i = 0; i <= kMaxSafetensorsTensors; ++i)
    header += fmt::format(R"("{}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}},)", i);
  header.back() = '}';
  EXPECT_EQ(error_of(header, 0), "header: expected at most 1048576 tensors, got more");
}

class Sharded : public ::testing::Test {
 protected:
  static std::string one(std::string_view name) {
    return safetensors(fmt::format(R"({{"{}":{{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}}})", name), 3);
  }
  std::string open(std::string_view weight_map) {
    dir_.write("model.safetensors.index.json",
               fmt::format(R"({{"metadata":{{"total_size":6}},"weight_map":{}}})", weight_map));
    auto r = open_checkpoint(dir_.path());
    if (r.ok()) file_ = std::move(*r);
    return r.ok() ? "" : r.error().message;
  }
  TempDir dir_;
  std::unique_ptr<Checkpoint> file_;
};

TEST_F(Sharded, directory_of_shards_is_one_checkpoint) {
  dir_.write("1.safetensors", one("a"));
  dir_.write("2.safetensors", one("b"));
  ASSERT_EQ(open(R"({"a":"1.safetensors","b":"2.safetensors"})"), "");
  EXPECT_EQ(file_->tensors().size(), 2U);
  ASSERT_NE(file_->find("b"), nullptr);
  EXPECT_EQ(file_->find("b")->data[2], std::byte{1});
}

TEST_F(Sharded, missing_shard_is_named) {
  dir_.write("1.safetensors", one("a"));
  const std::string message = open(R"({"a":"1.safetensors","b":"2.safetensors"})");
  EXPECT_NE(message.find("shard \"2.safetensors\""), std::string::npos) << message;
  EXPECT_NE(message.find("No such file"), std::string::npos) << message;
}

TEST_F(Sharded, tensor_is_in_the_shard_that_the_index_names) {
  dir_.write("1.safetensors", one("a"));
  dir_.write("2.safetensors", one("b"));
  EXPECT_NE(open(R"({"a":"2.safetensors","b":"2.safetensors","c":"1.safetensors"})")
                .find("weight_map: tensor \"a\": expected in shard \"2.safetensors\", got it in another"),
            std::string::npos);
  EXPECT_NE(
      open(R"({"c":"1.safetensors"})").find("weight_map: tensor \"c\": expected in shard \"1.safetensors\", got none"),
      std::string::npos);
}

TEST_F(Sharded, tensor_in_two_shards_is_refused) {
  dir_.write("1.safetensors", one("a"));
  dir_.write("2.safetensors", one("a"));
  EXPECT_NE(
      open(R"({"a":"1.safetensors","b":"2.safetensors"})").find("tensor \"a\": expected in one shard, got it in two"),
      std::string::npos);
}

TEST_F(Sharded, shards_lie_beside_the_index) {
  for (const char* name : {"../x.safetensors", "/etc/passwd", "..", ".", "", "a\\\\b", "a\\u0000b", "sub/x"}) {
    const std::string message = open(fmt::format(R"({{"a":"{}"}})", name));
    EXPECT_NE(message.find("tensor \"a\": expected the name of a file beside the index"), std::string::npos)
        << name << ": " << message;
  }
}

TEST_F(Sharded, index_is_strict) {
  dir_.write("1.safetensors", one("a"));
  EXPECT_NE(open(R"({"a":"1.safetensors","a":"1.safetensors"})").find("tensor \"a\": expected once, got it twice"),
            std::string::npos);
  EXPECT_NE(open(R"({},"weight_map":{})").find("weight_map: expected once, got it twice"), std::string::npos);
  EXPECT_NE(open(R"([1])").find("expected '{'"), std::string::npos);
  dir_.write("model.safetensors.index.json", "{}");
  EXPECT_NE(open_checkpoint(dir_.path()).error().message.find("weight_map: expected a map"), std::string::npos);
  const std::string deep = "{\"metadata\":" + std::string(100000, '[');
  dir_.write("model.safetensors.index.json", deep);
  EXPECT_NE(open_checkpoint(dir_.path()).error().message.find("at most 64 levels"), std::string::npos);
}

TEST_F(Sharded, metadata_of_the_index_may_be_any_json) {
  dir_.write("1.safetensors", one("a"));
  const std::string_view metadata = R"({"a":[1,-2.5e+3,[],{}, {"x":[true,false,null,"\n"]}],"b":{"c":0}})";
  dir_.write("model.safetensors.index.json",
             fmt::format(R"({{"metadata":{},"weight_map":{{"a":"1.safetensors"}}}})", metadata));
  auto r = open_checkpoint(dir_.path());
  EXPECT_TRUE(r.ok()) << r.error().message;
  for (const char* bad : {"[1,]", "{\"a\":}", "tru", "-", "1.", "01", "[1 2]", "{\"a\":1,}", "[}"}) {
    dir_.write("model.safetensors.index.json",
               fmt::format(R"({{"metadata":{},"weight_map":{{"a":"1.safetensors"}}}})", bad));
    EXPECT_FALSE(open_checkpoint(dir_.path()).ok()) << bad;
  }
}

TEST(OpenCheckpoint, says_what_was_looked_for) {
  const TempDir dir;
  EXPECT_EQ(open_checkpoint(dir.path()).error().message,
            dir.path().string() + ": expected model.safetensors or model.safetensors.index.json, got neither");
  EXPECT_EQ(open_checkpoint("/nowhere/x.safetensors").error().code, MOE_NOT_FOUND);
  EXPECT_EQ(open_checkpoint(dir.write("x.bin", "PK\3\4")).error().message,
            (dir.path() / "x.bin").string() + ": expected a safetensors or GGUF file, got something else");
  EXPECT_NE(open_checkpoint(dir.write("y.safetensors", raw<uint64_t>(uint64_t{1} << 63) + "{}"))
                .error()
                .message.find("header length"),
            std::string::npos);
}

TEST(OpenCheckpoint, files_are_known_by_content_whatever_their_name) {
  const TempDir dir;
  const auto r = open_checkpoint(dir.write("weights.bin", safetensors(kGood, 10)));
  EXPECT_TRUE(r.ok()) << r.error().message;
}

TEST(OpenCheckpoint, single_file_of_a_directory_is_found) {
  const TempDir dir;
  dir.write("model.safetensors", safetensors(kGood, 10));
  const auto r = open_checkpoint(dir.path());
  ASSERT_TRUE(r.ok()) << r.error().message;
  EXPECT_EQ((*r)->tensors().size(), 3U);
}

TEST(OpenCheckpoint, released_tensor_reads_the_same_bytes_again) {
  const TempDir dir;
  const std::string header = R"({"a":{"dtype":"U8","shape":[100000],"data_offsets":[0,100000]}})";
  const auto r = open_checkpoint(dir.write("m.safetensors", safetensors(header, 100000)));
  ASSERT_TRUE(r.ok()) << r.error().message;
  const TensorInfo* a = (*r)->find("a");
  (*r)->prefetch({a->data, a->bytes});
  (*r)->release({a->data, a->bytes});
  const auto* strange = reinterpret_cast<const std::byte*>(header.data());
  (*r)->prefetch({strange, 4});
  (*r)->release({strange, 4});
  for (size_t i = 0; i < a->bytes; ++i) ASSERT_EQ(a->data[i], std::byte{1});
}

TEST(MappedFile, reads_the_same_bytes_after_they_have_left_the_systems_cache) {
  const TempDir dir;
  const std::string text = std::string(50000, 'a') + std::string(50000, 'b');
  const auto file = MappedFile::open(dir.write("f", text));
  ASSERT_TRUE(file.ok()) << file.error().message;
  const auto bytes = file->bytes();
  const auto equal = [&] { return std::memcmp(bytes.data(), text.data(), text.size()) == 0; };
  EXPECT_TRUE(equal());
  for (const auto& part : {bytes, bytes.subspan(1, 60000), bytes.subspan(4095, 2), bytes.first(0)}) {
    file->prefetch(part);
    file->release(part, true);
    EXPECT_TRUE(equal());
  }
}

}  // namespace
}  // namespace patchbay
