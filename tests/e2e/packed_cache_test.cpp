// Packed weights that are kept in a file: the same logits bit for bit, and a file that is wrong in any way is written
// anew.
#include <sys/stat.h>

#include <fstream>
#include <thread>

#include "core/engine/packed_cache.hpp"
#include "core/model/checkpoint/large_pages.hpp"
#include "tests/e2e/engine_fixture.hpp"

namespace patchbay::e2e {
namespace {

namespace fs = std::filesystem;

struct Loaded {
  std::vector<float> logits;
  std::vector<std::string> notes;  // those about packed weights
};

class PackedCache : public ::testing::Test {
 protected:
  static constexpr int32_t kTokens = 12;

  void SetUp() override { copy_model("olmoe"); }
  void copy_model(const std::string& fixture) {
    fs::create_directories(model_);
    for (const char* name : {"config.json", "model.safetensors"})
      fs::copy_file(fixture_dir(fixture) / name, model_ / name, fs::copy_options::overwrite_existing);
  }

  static std::shared_ptr<PluginRegistry> registry(Host& host) {
    RegistryOptions plugins;
    plugins.search_paths = {PATCHBAY_BINARY_DIR "/lib/patchbay/plugins"};
    plugins.probe_program = PATCHBAY_BINARY_DIR "/bin/patchbay";
    plugins.cache_file = PATCHBAY_BINARY_DIR "/tests/e2e_cache/engine/plugins.json";
    return PluginRegistry::scan(std::move(plugins), host);
  }

  // Loads the model and runs a prompt.
  Loaded load(const std::string& precision, const std::string& where) const {
    Loaded out;
    auto settings = load_settings("", {"model.precision=" + precision, "model.packed_cache=" + where});
    EXPECT_TRUE(settings.ok()) << settings.error().message;
    settings->model.path = model_;
    settings->architecture_paths.emplace_back(PATCHBAY_SOURCE_DIR "/configs/architectures");
    settings->backends = {{"cpu", {}, "test"}};
    Host host(2);
    uint64_t done = 0;
    uint64_t total = 0;
    const auto progress = [&](uint64_t n, uint64_t of) { done = n, total = of; };
    auto model = Model::load(*settings, registry(host), host, progress);
    EXPECT_TRUE(model.ok()) << model.error().message;
    if (!model.ok()) return out;
    EXPECT_GT(done, fs::file_size(model_ / "config.json")) << "progress";
    EXPECT_LE(done, total);
    for (const auto& note : (*model)->notes()) {
      if (note.find("packed") != std::string::npos) out.notes.push_back(note);
    }
    Batch batch;
    batch.max_pages = (*model)->limits().max_pages;
    batch.page_table.assign(static_cast<size_t>(batch.max_pages), 0);
    for (int32_t i = 0; i < kTokens; ++i) {
      batch.ids.push_back(i * 37 % 300 + 2);
      batch.positions.push_back(i);
      batch.sequences.push_back(0);
      batch.cache_rows.push_back(i);
      batch.logit_rows.push_back(i);
    }
    const auto logits = (*model)->forward(batch);
    EXPECT_TRUE(logits.ok()) << logits.error().message;
    if (logits.ok()) out.logits.assign(*logits, *logits + kTokens * (*model)->spec().n_vocab);
    return out;
  }
  Loaded load(const std::string& precision = "int8") const { return load(precision, folder_.string()); }

  // The one packed file in the folder.
  fs::path file() const {
    std::vector<fs::path> files;
    for (const auto& entry : fs::directory_iterator(folder_)) files.push_back(entry.path());
    EXPECT_EQ(files.size(), 1U);
    return files.empty() ? fs::path() : files.front();
  }
  static void expect_note(const Loaded& loaded, const std::string& part) {
    ASSERT_FALSE(loaded.notes.empty()) << "expected a note with: " << part;
    EXPECT_NE(loaded.notes[0].find(part), std::string::npos) << loaded.notes[0];
  }
  // A load that finds a file of no use says so once, writes it anew, and the next one uses that.
  void expect_written_anew(const std::string& because) const {
    const Loaded plain = load("int8", "off");
    const Loaded loaded = load();
    expect_note(loaded, because);
    EXPECT_EQ(loaded.notes.size(), 2U);
    EXPECT_EQ(loaded.logits, plain.logits);
    const Loaded next = load();
    EXPECT_EQ(next.notes, std::vector<std::string>());
    EXPECT_EQ(next.logits, plain.logits);
  }
  static void change_byte(const fs::path& path, uint64_t at) {
    std::fstream f(path, std::ios::in | std::ios::out | std::ios::binary);
    f.seekg(static_cast<std::streamoff>(at));
    const char old = static_cast<char>(f.get());
    f.seekp(static_cast<std::streamoff>(at));
    f.put(static_cast<char>(old ^ 4));
    ASSERT_TRUE(f.good());
  }

  ScratchDir dir_;
  fs::path model_ = dir_.path() / "model";
  const fs::path folder_ = dir_.path() / "packed";
};

TEST_F(PackedCache, logits_are_the_same_bits_without_with_a_new_file_and_with_the_one_that_is_there) {
  for (const char* precision : {"auto", "fp16", "int8", "int4", "fp8"}) {
    const Loaded plain = load(precision, "off");
    EXPECT_EQ(plain.notes, std::vector<std::string>());
    EXPECT_FALSE(fs::exists(folder_));
    const Loaded first = load(precision);
    expect_note(first, "the next start takes them from there");
    const auto written = fs::last_write_time(file());
    const Loaded second = load(precision);
    EXPECT_EQ(second.notes, std::vector<std::string>());
    EXPECT_EQ(fs::last_write_time(file()), written);
    EXPECT_EQ(first.logits, plain.logits) << precision;
    EXPECT_EQ(second.logits, plain.logits) << precision;
    fs::remove_all(folder_);
  }
}

// What is in the file is what the model computes with.
TEST_F(PackedCache, weights_come_from_the_file) {
  const Loaded first = load();
  const fs::path path = file();
  for (uint64_t at = 64 << 10; at < fs::file_size(path) - 8192; at += 1021) change_byte(path, at);
  EXPECT_NE(load().logits, first.logits);
}

// f32 [8, 700, 1000], which int8 packs into more than one thread reads at a time.
struct LargeMatrix {
  LargeMatrix() {
    abi.name = abi.role = "large";
    abi.encoding = "f32";
    abi.wanted = "int8";
    abi.n_groups = 8;
    abi.n_out = 700;
    abi.n_in = 1000;
    abi.uses = MOE_USE_MATMUL;
    abi.read_f32 = [](void*, int64_t group, int64_t row, int64_t n_rows, float* out) {
      for (int64_t i = 0; i < n_rows * 1000; ++i) *out++ = static_cast<float>((group * 700 + row) * 1000 + i) * 1e-6F;
    };
  }
  moe_weight_source abi = moe::make<moe_weight_source>();
};

// The line of /proc/self/maps that says what an address belongs to.
std::string mapping_of(const void* address) {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    uintptr_t first = 0;
    uintptr_t last = 0;
    std::sscanf(line.c_str(), "%lx-%lx", &first, &last);
    const auto at = reinterpret_cast<uintptr_t>(address);
    if (first <= at && at < last) return line;
  }
  return "";
}

// One weight and one device, without a model.
class PackedWeights : public PackedCache {
 protected:
  void SetUp() override {
    PackedCache::SetUp();
    auto backend = plugins_->backend("cpu");
    ASSERT_TRUE(backend.ok()) << backend.error().message;
    auto device = Device::open(std::move(*backend), {}, host_);
    ASSERT_TRUE(device.ok()) << device.error().message;
    device_ = std::move(*device);
    auto checkpoint = open_checkpoint(model_);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
    checkpoint_ = std::move(*checkpoint);
  }
  std::unique_ptr<PackedCaches> caches(uint64_t memory_bytes) {
    return std::make_unique<PackedCaches>(
        PackedCacheOptions{folder_.string(), "int8", kExpectedBytes, memory_bytes}, *checkpoint_, host_.pool());
  }
  PreparedWeight prepare(PackedCaches& caches, const std::string& key, bool expect_from_file) {
    bool from_file = false;
    auto weight = caches.prepare(*device_, matrix_.abi, key, &from_file);
    EXPECT_TRUE(weight.ok()) << weight.error().message;
    EXPECT_EQ(from_file, expect_from_file);
    return weight.ok() ? std::move(*weight) : PreparedWeight();
  }
  std::string text_of(const PreparedWeight& weight) const {
    const auto bytes = device_->packed_bytes(weight);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

  static constexpr uint64_t kExpectedBytes = 1000;
  const LargeMatrix matrix_;
  Host host_{2};
  const std::shared_ptr<PluginRegistry> plugins_ = registry(host_);
  std::unique_ptr<Device> device_;
  std::unique_ptr<Checkpoint> checkpoint_;
};

TEST_F(PackedWeights, are_in_memory_or_in_large_pages_where_that_holds_them_and_else_in_the_mapped_file) {
  std::string first;
  // Room for the weights and the file's copy, for the weights alone, for neither; each without and with a file.
  for (const uint64_t memory : {2 * kExpectedBytes, kExpectedBytes, kExpectedBytes - 1}) {
    for (const bool there : {false, true}) {
      const auto all = caches(memory);
      const PreparedWeight weight = prepare(*all, "key", there);
      if (first.empty()) first = text_of(weight);
      EXPECT_TRUE(text_of(weight) == first) << memory << there;
      const auto bytes = device_->packed_bytes(weight);
      const std::string where = mapping_of(bytes.data());
      if (where.find(dir_.path().string()) == std::string::npos) {
        EXPECT_GE(memory, kExpectedBytes) << where;
      } else if (memory >= kExpectedBytes) {
        EXPECT_TRUE(load_in_large_pages(bytes)) << where;
      }
      EXPECT_EQ(all->finish().size(), there ? 0U : 1U);
    }
    fs::remove_all(folder_);
  }
  EXPECT_GT(first.size(), size_t{5} << 20);
}

TEST_F(PackedWeights, are_packed_again_where_the_file_lost_them_after_its_directory_was_read) {
  std::string first;
  {
    const auto all = caches(kExpectedBytes);
    first = text_of(prepare(*all, "a", false));
    prepare(*all, "b", false);
    all->finish();
  }
  const auto all = caches(kExpectedBytes);
  const PreparedWeight a = prepare(*all, "a", true);
  fs::resize_file(file(), 8 << 20);  // 2 MiB of small things, a, b, the directory
  const PreparedWeight b = prepare(*all, "b", false);
  EXPECT_TRUE(text_of(a) == first);
  EXPECT_TRUE(text_of(b) == first);
  all->finish();
  const auto next = caches(kExpectedBytes);
  for (const char* key : {"a", "b"}) EXPECT_TRUE(text_of(prepare(*next, key, true)) == first) << key;
}

TEST_F(PackedCache, a_checkpoint_that_was_written_to_is_packed_anew) {
  load();
  const auto later = fs::last_write_time(model_ / "model.safetensors") + std::chrono::seconds(1);
  change_byte(model_ / "model.safetensors", fs::file_size(model_ / "model.safetensors") - 1000);
  fs::last_write_time(model_ / "model.safetensors", later);
  expect_written_anew("the checkpoint's files have changed");
}

TEST_F(PackedCache, a_file_that_was_cut_short_is_written_anew) {
  load();
  const auto size = fs::file_size(file());
  for (const auto left : {size - 1, size / 2, uintmax_t{87}}) {
    fs::resize_file(file(), left);
    expect_written_anew(left >= 88 ? "at their end, got" : "at least 88 bytes");
  }
}

TEST_F(PackedCache, a_changed_byte_of_header_or_directory_is_noticed) {
  load();
  const auto size = fs::file_size(file());
  for (const uint64_t at : {uint64_t{3}, uint64_t{9}, uint64_t{20}, uint64_t{87}, size - 700}) {
    change_byte(file(), at);
    const Loaded loaded = load();
    EXPECT_EQ(loaded.notes.size(), 2U) << at;
    expect_note(loaded, "weights are packed anew: expected ");
  }
  EXPECT_EQ(load().notes, std::vector<std::string>());
}

TEST_F(PackedCache, a_file_of_another_precision_is_not_taken) {
  load("int4");
  const fs::path four = file();
  std::string name = four.string();
  const size_t at = name.find("int4");
  ASSERT_NE(at, std::string::npos);
  fs::rename(four, name.replace(at, 4, "int8"));
  expect_written_anew("precision: expected int8, got int4");
}

TEST_F(PackedCache, a_model_of_the_same_name_elsewhere_has_its_own_file) {
  load();
  model_ = dir_.path() / "other";
  copy_model("mixtral");
  const Loaded first = load();
  EXPECT_EQ(first.notes.size(), 1U);
  EXPECT_EQ(first.logits, load("int8", "off").logits);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), {}), 2);
}

// Another model under the name of the first.
TEST_F(PackedCache, a_model_in_the_place_of_another_is_packed_anew) {
  load();
  copy_model("mixtral");
  expect_written_anew("the checkpoint's files have changed");
}

TEST_F(PackedCache, where_nothing_can_be_written_the_model_runs_without_and_one_note_says_why) {
  const Loaded loaded = load("int8", "/proc/self/packed");
  EXPECT_EQ(loaded.notes.size(), 1U);
  expect_note(loaded, "packed weights are not kept for the next start: /proc/self/packed/model.safetensors-");
  EXPECT_EQ(loaded.logits, load("int8", "off").logits);
}

// Users other than root, if only for a moment.
class AsNobody {
 public:
  AsNobody() : before_(geteuid()) { is_ = before_ != 0 || seteuid(65534) == 0; }
  ~AsNobody() {
    if (seteuid(before_) != 0) ADD_FAILURE() << "still nobody";
  }
  AsNobody(const AsNobody&) = delete;
  AsNobody& operator=(const AsNobody&) = delete;
  [[nodiscard]] bool is() const { return is_; }

 private:
  uid_t before_;
  bool is_ = false;
};

// "auto" leaves small models alone; a tensor that nobody reads, a hole in the file, makes this one large.
TEST_F(PackedCache, automatic_is_beside_a_large_checkpoint_that_may_be_written_to) {
  EXPECT_EQ(load("int8", "auto").notes, std::vector<std::string>());
  const auto n_files = [&] { return std::distance(fs::directory_iterator(model_), {}); };
  EXPECT_EQ(n_files(), 2);

  const fs::path path = model_ / "model.safetensors";
  const std::string old = read_text(path);
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, old.data(), 8);
  auto header = nlohmann::json::parse(old.substr(8, header_bytes));
  const uint64_t data = old.size() - 8 - header_bytes;
  header["hole"] = {{"dtype", "U8"}, {"shape", {1 << 30}}, {"data_offsets", {data, data + (1 << 30)}}};
  const std::string text = header.dump();
  const uint64_t text_bytes = text.size();
  write_text(path, std::string(reinterpret_cast<const char*>(&text_bytes), 8) + text + old.substr(8 + header_bytes));
  fs::resize_file(path, 8 + text_bytes + data + (1 << 30));

  const Loaded plain = load("int8", "off");
  ASSERT_EQ(chmod(dir_.path().c_str(), 0755), 0);
  ASSERT_EQ(chmod(model_.c_str(), 0555), 0);
  {
    const AsNobody nobody;
    if (nobody.is() && access(PATCHBAY_BINARY_DIR "/bin/patchbay", R_OK) == 0) {
      const Loaded loaded = load("int8", "auto");
      EXPECT_EQ(loaded.notes, std::vector<std::string>()) << "nothing to say about a folder that is for reading";
      EXPECT_EQ(loaded.logits, plain.logits);
    }
  }
  EXPECT_EQ(n_files(), 2);
  ASSERT_EQ(chmod(model_.c_str(), 0755), 0);
  expect_note(load("int8", "auto"), (path.string() + ".cpu-int8.packed"));
  EXPECT_EQ(n_files(), 3);
  const Loaded second = load("int8", "auto");
  EXPECT_EQ(second.notes, std::vector<std::string>());
  EXPECT_EQ(second.logits, plain.logits);
}

TEST_F(PackedCache, two_at_once_disturb_each_other_no_more_than_one_after_the_other) {
  const Loaded plain = load("int8", "off");
  std::vector<std::string> arguments = {"run",
                                        "--model",
                                        model_.string(),
                                        "--backend",
                                        "cpu",
                                        "--precision",
                                        "int8",
                                        "--set",
                                        "model.packed_cache=\"" + folder_.string() + "\"",
                                        "--max-tokens",
                                        "4",
                                        "--temperature",
                                        "0",
                                        "--prompt-ids=[5,6,7]",
                                        "--json"};
  std::vector<std::unique_ptr<RunningProgram>> runs;
  for (int i = 0; i < 3; ++i) runs.push_back(std::make_unique<RunningProgram>(arguments));
  std::vector<nlohmann::json> ids;
  for (auto& run : runs) {
    const auto result = run->wait();
    EXPECT_EQ(result.exit_code, 0) << result.err;
    ids.push_back(nlohmann::json::parse(result.out).at("ids"));
  }
  EXPECT_EQ(ids[1], ids[0]);
  EXPECT_EQ(ids[2], ids[0]);
  const Loaded next = load();
  EXPECT_EQ(next.notes, std::vector<std::string>());
  EXPECT_EQ(next.logits, plain.logits);
  file();
}

}  // namespace
}  // namespace patchbay::e2e
