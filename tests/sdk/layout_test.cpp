// The sizes and offsets of the ABI's structs are part of its promise: a plugin that was built yesterday is loaded
// today. A change here is a new field at the end (write the file anew and say so in the commit) or a mistake.
//   PATCHBAY_WRITE_LAYOUT=1 layout_test      writes tests/data/abi/layout.txt
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>

#include "moe/abi/backend.h"
#include "moe/abi/expert.h"
#include "moe/abi/host.h"
#include "moe/abi/ops.h"
#include "moe/abi/option.h"
#include "moe/abi/packed.h"
#include "moe/abi/plugin.h"
#include "moe/abi/router.h"
#include "moe/abi/sampler.h"
#include "moe/abi/status.h"
#include "moe/abi/tensor.h"
#include "moe/abi/transport.h"
#include "moe/abi/weights.h"

namespace {

constexpr const char* kFile = PATCHBAY_SOURCE_DIR "/tests/data/abi/layout.txt";

std::string layout() {
  std::ostringstream out;
#define STRUCT(type) out << #type << " " << sizeof(type) << "\n";
#define FIELD(type, field) out << "  " << #field << " " << offsetof(type, field) << " " << sizeof(type::field) << "\n";
#include "layout_fields.inc"
#undef STRUCT
#undef FIELD
  return out.str();
}

std::string text_of(const std::string& path) {
  std::ifstream in(path);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

// What a type's fields and the padding between them add up to cannot be seen from one line: the list itself must be
// whole.
std::string structs_of_headers() {
  std::string names;
  for (const char* header : {"backend", "expert", "host", "ops", "option", "packed", "plugin", "router", "sampler", "status",
                             "tensor", "transport", "weights"}) {
    std::istringstream in(text_of(std::string(PATCHBAY_SOURCE_DIR "/sdk/include/moe/abi/") + header + ".h"));
    for (std::string line; std::getline(in, line);) {
      constexpr std::string_view kStart = "typedef struct ";
      if (line.starts_with(kStart) && line.ends_with("{")) {
        names += line.substr(kStart.size(), line.find(' ', kStart.size()) - kStart.size()) + "\n";
      }
    }
  }
  return names;
}

TEST(Abi, layout_of_every_struct_is_the_recorded_one) {
  const std::string now = layout();
  if (std::getenv("PATCHBAY_WRITE_LAYOUT") != nullptr) std::ofstream(kFile) << now;
  std::istringstream want(text_of(kFile));
  std::istringstream got(now);
  std::string of;
  for (std::string w, g; std::getline(want, w);) {
    ASSERT_TRUE(std::getline(got, g)) << "gone: " << w;
    if (!w.starts_with(" ")) of = w;
    ASSERT_EQ(w, g) << "in " << of;
  }
  std::string more;
  EXPECT_FALSE(std::getline(got, more)) << "not recorded: " << more;
}

TEST(Abi, every_struct_of_the_headers_is_in_the_record) {
  std::string listed;
#define STRUCT(type) listed += #type "\n";
#define FIELD(type, field)
#include "layout_fields.inc"
#undef STRUCT
#undef FIELD
  EXPECT_EQ(listed, structs_of_headers());
}

}  // namespace
