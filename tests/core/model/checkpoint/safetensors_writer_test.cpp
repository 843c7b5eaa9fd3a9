#include "core/model/checkpoint/safetensors_writer.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <csignal>

#include "core/model/checkpoint/checkpoint.hpp"
#include "files.hpp"

namespace patchbay {
namespace {

using test::slurp;
using test::TempDir;

std::vector<std::byte> pattern(size_t n, size_t seed) {
  std::vector<std::byte> bytes(n);
  for (size_t i = 0; i < n; ++i) bytes[i] = static_cast<std::byte>(i * 31 + seed);
  return bytes;
}

const std::vector<TensorDeclaration> kTensors = {{"a", "u8", {3}},      {"b\n\"é", "f32", {2, 5}},
                                                 {"c", "bf16", {7}},    {"d", "f64", {1, 2}},
                                                 {"scalar", "f32", {}}, {"none", "f32", {0, 4}}};
const std::vector<size_t> kBytes = {3, 40, 14, 16, 4, 0};

moe::Status write_all(SafetensorsWriter* writer) {
  for (size_t i = kTensors.size(); i-- > 0;) {  // any order, any pieces
    const auto bytes = pattern(kBytes[i], i);
    for (size_t at = 0; at < bytes.size(); at += 5) {
      MOE_TRY(writer->write(kTensors[i].name, std::span(bytes).subspan(at, std::min<size_t>(5, bytes.size() - at))));
    }
  }
  return {};
}

size_t n_files(const TempDir& dir) {
  return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(dir.path()), {}));
}

void expect_all(const TempDir& dir) {
  const auto r = open_checkpoint(dir.path());
  ASSERT_TRUE(r.ok()) << r.error().message;
  ASSERT_EQ((*r)->tensors().size(), kTensors.size());
  for (size_t i = 0; i < kTensors.size(); ++i) {
    const TensorInfo* t = (*r)->find(kTensors[i].name);
    ASSERT_NE(t, nullptr) << kTensors[i].name;
    EXPECT_EQ(t->encoding, kTensors[i].encoding);
    EXPECT_TRUE(std::equal(t->shape.begin(), t->shape.end(), kTensors[i].shape.begin(), kTensors[i].shape.end()));
    const auto want = pattern(kBytes[i], i);
    EXPECT_TRUE(std::equal(want.begin(), want.end(), t->data, t->data + t->bytes)) << kTensors[i].name;
    const size_t size = t->encoding == "f64" ? 8 : t->encoding == "f32" ? 4 : t->encoding == "bf16" ? 2 : 1;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(t->data) % size, 0U) << kTensors[i].name;
  }
}

TEST(SafetensorsWriter, what_it_writes_is_read_back) {
  const TempDir dir;
  auto writer = SafetensorsWriter::create(dir.path(), kTensors);
  ASSERT_TRUE(writer.ok()) << writer.error().message;
  ASSERT_TRUE(write_all(&*writer).ok());
  EXPECT_FALSE(std::filesystem::exists(dir.path() / "model.safetensors"));
  const auto status = writer->finish();
  ASSERT_TRUE(status.ok()) << status.error().message;
  EXPECT_EQ(writer->file_names(), std::vector<std::string>{"model.safetensors"});
  EXPECT_EQ(n_files(dir), 1U);
  expect_all(dir);
}

TEST(SafetensorsWriter, shards_hold_at_most_what_they_may_and_the_index_says_where) {
  const TempDir dir;
  SafetensorsWriterOptions options;
  options.max_shard_bytes = 30;
  auto writer = SafetensorsWriter::create(dir.path(), kTensors, options);
  ASSERT_TRUE(writer.ok()) << writer.error().message;
  ASSERT_TRUE(write_all(&*writer).ok());
  ASSERT_TRUE(writer->finish().ok());
  EXPECT_EQ(writer->file_names(),
            (std::vector<std::string>{"model-00001-of-00004.safetensors", "model-00002-of-00004.safetensors",
                                      "model-00003-of-00004.safetensors", "model-00004-of-00004.safetensors",
                                      "model.safetensors.index.json"}));
  EXPECT_EQ(n_files(dir), 5U);
  expect_all(dir);
}

TEST(SafetensorsWriter, nothing_is_left_without_finish) {
  const TempDir dir;
  {
    auto writer = SafetensorsWriter::create(dir.path(), kTensors);
    ASSERT_TRUE(writer.ok());
    ASSERT_TRUE(write_all(&*writer).ok());
    EXPECT_FALSE(std::filesystem::exists(dir.path() / "model.safetensors"));
  }
  EXPECT_EQ(n_files(dir), 0U);
}

TEST(SafetensorsWriter, missing_bytes_are_named_and_leave_an_older_file_as_it_was) {
  const TempDir dir;
  dir.write("model.safetensors", "older");
  {
    auto writer = SafetensorsWriter::create(dir.path(), {{"a", "u8", {3}}});
    ASSERT_TRUE(writer.ok());
    ASSERT_TRUE(writer->write("a", pattern(2, 0)).ok());
    const auto status = writer->finish();
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.error().message, "tensor \"a\": expected 3 bytes, got 2");
    EXPECT_FALSE(writer->finish().ok());
  }
  EXPECT_EQ(n_files(dir), 1U);
  EXPECT_EQ(slurp(dir.path() / "model.safetensors"), "older");
}

TEST(SafetensorsWriter, wrong_writes_are_errors_and_final) {
  const TempDir dir;
  auto writer = SafetensorsWriter::create(dir.path(), {{"a", "u8", {3}}});
  ASSERT_TRUE(writer.ok());
  EXPECT_EQ(writer->write("a", pattern(4, 0)).error().message, "tensor \"a\": expected 3 bytes, got more");
  EXPECT_EQ(writer->write("a", pattern(3, 0)).error().code, MOE_FAILED_PRECONDITION);
  EXPECT_EQ(writer->finish().error().code, MOE_FAILED_PRECONDITION);
  auto other = SafetensorsWriter::create(dir.path(), {{"a", "u8", {3}}});
  EXPECT_EQ(other->write("z", pattern(1, 0)).error().message,
            "tensor \"z\": expected one that was declared, got another");
}

TEST(SafetensorsWriter, declarations_are_checked) {
  const TempDir dir;
  const auto error = [&](std::vector<TensorDeclaration> tensors) {
    const auto r = SafetensorsWriter::create(dir.path(), tensors);
    return r.ok() ? "" : r.error().message;
  };
  EXPECT_EQ(error({}), "");
  EXPECT_EQ(error({{"a", "q4_k", {256}}}), "tensor \"a\": expected an encoding of the format, got \"q4_k\"");
  EXPECT_EQ(error({{"a", "u8", {1}}, {"a", "u8", {1}}}), "tensor \"a\": expected once, got it twice");
  EXPECT_FALSE(error({{"a", "u8", {-1}}}).empty());
  EXPECT_FALSE(error({{"a", "u8", {int64_t{1} << 62, 4}}}).empty());
  EXPECT_FALSE(error({{"a", "f4", {3}}}).empty());
  EXPECT_FALSE(error({{"a", "u8", std::vector<int64_t>(9, 1)}}).empty());
  EXPECT_FALSE(error({{"__metadata__", "u8", {1}}}).empty());
  EXPECT_FALSE(error({{"\xff", "u8", {1}}}).empty());
  EXPECT_EQ(SafetensorsWriter::create(dir.path() / "none", {}).error().code, MOE_NOT_FOUND);
  dir.write("model.safetensors", "x");
  SafetensorsWriterOptions options;
  options.max_shard_bytes = 1;
  EXPECT_EQ(SafetensorsWriter::create(dir.path(), {{"a", "u8", {1}}, {"b", "u8", {1}}}, options).error().code,
            MOE_FAILED_PRECONDITION);
}

// A limit on the size of files stands for the full disk.
class FileLimit {
 public:
  explicit FileLimit(rlim_t bytes) {
    std::signal(SIGXFSZ, SIG_IGN);
    ::getrlimit(RLIMIT_FSIZE, &old_);
    const rlimit limit{bytes, old_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileLimit() {
    ::setrlimit(RLIMIT_FSIZE, &old_);
    std::signal(SIGXFSZ, SIG_DFL);
  }
  FileLimit(const FileLimit&) = delete;
  FileLimit& operator=(const FileLimit&) = delete;

 private:
  rlimit old_{};
};

TEST(SafetensorsWriter, full_disk_is_noticed_at_once_and_leaves_nothing) {
  const TempDir dir;
  moe::Error error;
  {
    const FileLimit limit(4096);
    const auto writer = SafetensorsWriter::create(dir.path(), {{"a", "u8", {5000}}});
    ASSERT_FALSE(writer.ok());
    error = writer.error();
  }
  EXPECT_EQ(error.code, MOE_RESOURCE_EXHAUSTED) << error.message;
  EXPECT_NE(error.message.find("model.safetensors: expected to write it, got: "), std::string::npos);
  EXPECT_EQ(n_files(dir), 0U);
}

TEST(SafetensorsWriter, disk_that_fills_while_writing_is_an_error_and_leaves_nothing) {
  const TempDir dir;
  {
    auto writer = SafetensorsWriter::create(dir.path(), {{"a", "u8", {9000}}});
    ASSERT_TRUE(writer.ok());
    const auto bytes = pattern(9000, 0);
    moe::Status status;
    {
      const FileLimit limit(4096);
      status = writer->write("a", bytes);
    }
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.error().code, MOE_RESOURCE_EXHAUSTED);
    EXPECT_FALSE(writer->finish().ok());
  }
  EXPECT_EQ(n_files(dir), 0U);
}

}  // namespace
}  // namespace patchbay
