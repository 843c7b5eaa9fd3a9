// What a library says without being loaded, and what is refused when it is no such thing.
#include <gtest/gtest.h>

#include "core/plugin/elf.hpp"
#include "core/plugin/manifest.hpp"
#include "tests/e2e/program.hpp"

namespace patchbay::e2e {
namespace {

const std::string kTopk = PATCHBAY_BINARY_DIR "/lib/patchbay/plugins/router_topk.so";
const std::string kSmall = PATCHBAY_SOURCE_DIR "/tests/data/corpus/manifest/whole";

TEST(Manifest, is_read_without_loading_the_library) {
  const auto manifest = read_manifest(kTopk);
  ASSERT_TRUE(manifest.ok()) << manifest.error().message;
  EXPECT_EQ(manifest->name, "router_topk");
  EXPECT_EQ(manifest->version, "0.1.0");
  EXPECT_EQ(manifest->license, "Apache-2.0");
  EXPECT_EQ(manifest->author, "Patchbay");
  EXPECT_EQ(manifest->abi_major, 1U);
  ASSERT_EQ(manifest->components.size(), 1U);
  EXPECT_EQ(manifest->components[0].kind_id, "moe.router/1");
  EXPECT_EQ(manifest->components[0].name, "topk");
}

TEST(Manifest, says_what_is_wrong_with_it) {
  const std::string good = "name: n\nversion: 1\nlicense: MIT\nauthor: a\nabi: 1.0-1.2\ncomponent: moe.router/1 r\n";
  const auto parsed = parse_manifest(good + std::string(3, '\0'));
  ASSERT_TRUE(parsed.ok()) << parsed.error().message;
  EXPECT_EQ(parsed->abi_minor, 2U);
  EXPECT_EQ(parsed->abi_least_minor, 0U);
  for (const char* abi : {"1", "1.0", "1.0-2.0", "1.3-1.2", "1.0-1.2x", "a.b-c.d", ""}) {
    const auto wrong = parse_manifest("name: n\nversion: 1\nlicense: MIT\nauthor: a\nabi: " + std::string(abi) + "\n");
    ASSERT_FALSE(wrong.ok()) << abi;
    EXPECT_NE(wrong.error().message.find("abi: expected a range"), std::string::npos) << wrong.error().message;
  }
  EXPECT_FALSE(parse_manifest("").ok());
  EXPECT_FALSE(parse_manifest("name: n\nabi: 1.0-1.0\n").ok());
  EXPECT_FALSE(parse_manifest(good + "component: moe.router/1\n").ok());
}

// A dozen segments over the same notes are refused, so that no file costs more than its size.
TEST(Elf, notes_that_overlap_are_refused) {
  const auto wrong = ElfFile::read(PATCHBAY_SOURCE_DIR "/tests/data/corpus/manifest/overlapping_segments");
  ASSERT_FALSE(wrong.ok());
  EXPECT_NE(wrong.error().message.find("that do not overlap"), std::string::npos) << wrong.error().message;
  const auto whole = read_manifest(PATCHBAY_SOURCE_DIR "/tests/data/corpus/manifest/whole");
  ASSERT_TRUE(whole.ok()) << whole.error().message;
  EXPECT_EQ(whole->components.at(0).name, "topk");
}

TEST(Elf, a_library_cut_off_anywhere_is_refused_or_read) {
  const ScratchDir dir;
  const std::string whole = read_text(kSmall);
  int refused = 0;
  for (size_t n = 0; n < whole.size(); ++n) {
    write_text(dir / "cut.so", whole.substr(0, n));
    refused += ElfFile::read(dir / "cut.so").ok() ? 0 : 1;
  }
  EXPECT_GT(refused, 100);
  EXPECT_TRUE(ElfFile::read(kSmall).ok());
}

TEST(Elf, a_library_with_any_byte_of_its_headers_changed_does_no_harm) {
  const ScratchDir dir;
  const std::string whole = read_text(kSmall);
  for (size_t at = 0; at < whole.size(); ++at) {
    for (const char value : {'\0', '\x7f', '\xff'}) {
      std::string changed = whole;
      changed[at] = value;
      write_text(dir / "changed.so", changed);
      (void)read_manifest(dir / "changed.so");
    }
  }
  EXPECT_FALSE(ElfFile::read(PATCHBAY_SOURCE_DIR "/README.md").ok());
  EXPECT_FALSE(ElfFile::read(dir / "missing.so").ok());
}

}  // namespace
}  // namespace patchbay::e2e
