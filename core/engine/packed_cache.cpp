#include "core/engine/packed_cache.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>
#include <mutex>

#include "core/model/checkpoint/large_pages.hpp"
#include "core/model/json/json.hpp"
#include "core/plugin/sha256.hpp"

namespace patchbay {
namespace {

namespace fs = std::filesystem;

static_assert(std::endian::native == std::endian::little, "the header is written as it lies in memory");

constexpr uint64_t kAlignment = 64 << 10;  // the largest that systems have as their only page
constexpr uint64_t kAutomaticBytes = uint64_t{1} << 30;
// A change of the file's format, or of what the core makes of a checkpoint's numbers, is a new one.
constexpr int kFormat = 1;

constexpr size_t kHashDigits = 64;
struct Header {
  char magic[8];
  uint64_t directory;
  uint64_t directory_bytes;
  char hash[kHashDigits];
};
static_assert(sizeof(Header) == 88);
constexpr char kMagic[] = "MOEPACK1";

std::string hash_of(uint64_t directory, std::string_view text) {
  return sha256_of_text(fmt::format("{} {} {}", directory, text.size(), text));
}

std::string gb(uint64_t n_bytes) { return fmt::format("{:.2f} GB", static_cast<double>(n_bytes) / 1e9); }

uint64_t align(uint64_t n, uint64_t unit = kAlignment) { return (n + unit - 1) / unit * unit; }

std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }

// The names, sizes and times of a checkpoint's files, and what they say that is in them.
std::string fingerprint(const Checkpoint& checkpoint) {
  Sha256 hash;
  for (const auto& file : checkpoint.files()) {
    hash.add(fmt::format("{} {} {}\n", file.path().filename().string(), file.bytes().size(), file.modified_ns()));
  }
  for (const auto& t : checkpoint.tensors()) {
    hash.add(fmt::format("{} {} [{}] {}\n", t.name, t.encoding, fmt::join(t.shape, ","), t.bytes));
  }
  return hash.hex();
}

fs::path cache_path(const PackedCacheOptions& options, const fs::path& first_file, const std::string& backend) {
  std::error_code ec;
  const fs::path file = fs::absolute(first_file, ec).lexically_normal();
  const std::string name = file.filename().string();
  const std::string end = fmt::format(".{}-{}{}", backend, options.precision, kPackedCacheEnding);
  if (options.where == "auto") return file.parent_path() / (name + end);
  // Models of one name share a folder.
  return fs::path(options.where) / fmt::format("{}-{}{}", name, sha256_of_text(file.string()).substr(0, 12), end);
}

}  // namespace

PackedCache::PackedCache(Device& device, const PackedCacheOptions& options, const Checkpoint& checkpoint,
                         ThreadPool& pool)
    : device_(device),
      path_(cache_path(options, checkpoint.files().front().path(), device.name())),
      automatic_(options.where == "auto"),
      expected_bytes_(options.expected_bytes),
      pool_(pool),
      in_memory_(options.expected_bytes <= options.memory_bytes),
      forgets_(options.expected_bytes > options.memory_bytes / 2) {
  identity_ = {{"format", std::to_string(kFormat)},
               {"layout", device.packed_layout()},
               {"precision", options.precision},
               {"checkpoint", fingerprint(checkpoint)}};
  std::error_code ec;
  if (!fs::exists(path_, ec)) return;
  if (const auto status = read(); !status.ok()) {
    old_weights_.clear();
    old_.reset();
    old_file_.reset();
    notes_.push_back(fmt::format("{}: not used, weights are packed anew: {}", path_.string(), status.error().message));
  }
}

moe::Status PackedCache::read() {
  MOE_ASSIGN(InputFile file, InputFile::open(path_));
  MOE_ASSIGN(MappedFile mapped, file.map());
  ask_for_large_pages(mapped.bytes());
  const auto all = mapped.bytes();
  Header header{};
  if (all.size() < sizeof(header)) {
    return moe::data_loss(fmt::format("expected at least {} bytes, got {}", sizeof(header), all.size()));
  }
  std::memcpy(&header, all.data(), sizeof(header));
  if (std::memcmp(header.magic, kMagic, sizeof(header.magic)) != 0) {
    return moe::data_loss(fmt::format("expected it to begin with {}, got something else", kMagic));
  }
  if (header.directory > all.size() || all.size() - header.directory != header.directory_bytes) {
    return moe::data_loss(fmt::format("expected {} bytes with a directory of {} at their end, got {} bytes",
                                      header.directory, header.directory_bytes, all.size()));
  }
  const std::string_view text(reinterpret_cast<const char*>(all.data()) + header.directory, header.directory_bytes);
  if (hash_of(header.directory, text) != std::string_view(header.hash, kHashDigits)) {
    return moe::data_loss("expected a directory of the header's SHA-256, got another");
  }
  MOE_TRY(read_directory(text, header.directory));
  old_file_ = std::move(file);
  old_ = std::move(mapped);
  return {};
}

moe::Status PackedCache::read_directory(std::string_view text, uint64_t end) {
  MOE_ASSIGN(const auto doc, parse_json(text));
  try {
    for (const auto& [what, expected] : identity_) {
      const auto& got = doc.at("for").at(what).get_ref<const std::string&>();
      if (got == expected) continue;
      if (what == "checkpoint") return moe::precondition("the checkpoint's files have changed since it was written");
      return moe::precondition(fmt::format("{}: expected {}, got {}", what, expected, got));
    }
    for (const auto& entry : doc.at("weights")) {
      const Weight w{entry.at(1).get<uint64_t>(), entry.at(2).get<uint64_t>()};
      if (w.offset % kAlignment != 0 || w.offset > end || w.n_bytes > end - w.offset) {
        return moe::data_loss(fmt::format("weight at {}: expected its {} bytes before {}", w.offset, w.n_bytes, end));
      }
      old_weights_.emplace(entry.at(0).get<std::string>(), w);
    }
  } catch (const nlohmann::json::exception& e) {
    return moe::data_loss(fmt::format("expected a directory of packed weights, got: {}", e.what()));
  }
  return {};
}

moe::Result<PreparedWeight> PackedCache::prepare(const moe_weight_source& source, const std::string& key,
                                                 bool* from_file) {
  *from_file = false;
  if (const auto found = old_weights_.find(key); found != old_weights_.end()) {
    if (auto weight = take(source, found->second); weight.ok()) {
      used_.emplace_back(key, device_.packed_bytes(*weight));
      if (new_) (void)write(key, used_.back().second);
      *from_file = true;
      return weight;
    }
  }
  if (may_write_ && !new_) start_writing();
  MOE_ASSIGN(PreparedWeight packed, device_.prepare(source));
  if (!new_) return packed;
  const auto written = write(key, device_.packed_bytes(packed));
  if (!written || (in_memory_ && !load_in_large_pages(*written))) return packed;
  return device_.adopt(source, *written);
}

moe::Result<PreparedWeight> PackedCache::take(const moe_weight_source& source, const Weight& weight) {
  const auto bytes = old_->bytes().subspan(weight.offset, weight.n_bytes);
  if (in_memory_ && !load_in_large_pages(bytes)) {
    auto read = read_into_memory(source, weight);
    if (read.ok() || read.error().code != MOE_RESOURCE_EXHAUSTED) return read;
  }
  MOE_ASSIGN(PreparedWeight mapped, device_.adopt(source, bytes));
  if (!in_memory_) old_->prefetch(bytes);
  return mapped;
}

moe::Result<PreparedWeight> PackedCache::read_into_memory(const moe_weight_source& source, const Weight& weight) {
  MOE_ASSIGN(Buffer buffer, device_.alloc(weight.n_bytes));
  const std::span bytes(static_cast<std::byte*>(buffer.data()), weight.n_bytes);
  MOE_TRY(fill(weight, bytes));
  MOE_ASSIGN(PreparedWeight read, device_.adopt(source, bytes));
  buffers_.push_back(std::move(buffer));
  old_->release(old_->bytes().subspan(weight.offset, weight.n_bytes));
  if (forgets_) old_file_->forget(weight.offset, weight.n_bytes);
  return read;
}

template <typename F>
void PackedCache::for_pieces(uint64_t n_bytes, const F& f) {
  constexpr uint64_t kPiece = uint64_t{8} << 20;
  const auto piece = [&](int64_t i) {
    const uint64_t first = static_cast<uint64_t>(i) * kPiece;
    f(first, std::min(kPiece, n_bytes - first));
  };
  pool_.run(
      static_cast<int64_t>((n_bytes + kPiece - 1) / kPiece),
      [](void* context, int64_t i, int32_t) { (*static_cast<decltype(piece)*>(context))(i); },
      const_cast<void*>(static_cast<const void*>(&piece)));
}

bool PackedCache::load_in_large_pages(std::span<const std::byte> bytes) {
  if (bytes.size() < kLargePageBytes) return false;
  std::atomic<uint64_t> large = 0;
  for_pieces(bytes.size(), [&](uint64_t first, uint64_t n) {
    if (patchbay::load_in_large_pages(bytes.subspan(first, n))) large += n;
  });
  return large >= bytes.size() / 4 * 3;
}

// What comes next is asked for from the disk meanwhile.
moe::Status PackedCache::fill(const Weight& weight, std::span<std::byte> out) {
  constexpr uint64_t kAhead = uint64_t{64} << 20;
  old_file_->prefetch(weight.offset, weight.n_bytes + kAhead);
  std::mutex mutex;
  moe::Status status;
  for_pieces(weight.n_bytes, [&](uint64_t first, uint64_t n) {
    const auto read = old_file_->read_at(weight.offset + first, out.subspan(first, n));
    const std::lock_guard lock(mutex);
    if (!read.ok()) status = read;
  });
  return status;
}

// What has been used of an old file goes into the new one too.
void PackedCache::start_writing() {
  if (const auto status = reserve(); !status.ok()) return stop_writing(status.error());
  if (!old_) return;
  notes_.push_back(fmt::format("{}: lacks weights that are now wanted: it is written anew", path_.string()));
  for (const auto& [key, bytes] : used_) {
    if (!write(key, bytes)) return;
  }
}

moe::Status PackedCache::reserve() {
  std::error_code ec;
  const fs::path folder = path_.parent_path();
  if (!automatic_) fs::create_directories(folder, ec);
  const auto space = fs::space(folder, ec);
  if (automatic_ && !ec && space.available / 2 < expected_bytes_) {
    return moe::exhausted(fmt::format("{}: expected {} free, twice what packed weights take, got {}", folder.string(),
                                      gb(2 * expected_bytes_), gb(space.available)));
  }
  MOE_ASSIGN(OutputFile file, OutputFile::create(path_, expected_bytes_));
  // Address space beyond the end, for an estimate that was too small, costs nothing.
  MOE_ASSIGN(MappedFile bytes, file.map(align(2 * expected_bytes_ + kAutomaticBytes)));
  ask_for_large_pages(bytes.bytes());
  new_ = std::move(file);
  new_bytes_ = std::move(bytes);
  end_ = kAlignment;
  return {};
}

std::optional<std::span<const std::byte>> PackedCache::write(const std::string& key, std::span<const std::byte> bytes) {
  const auto room = new_bytes_->bytes();
  const uint64_t unit = bytes.size() < kLargePageBytes ? kAlignment : kLargePageBytes;
  const uint64_t begin = align(end_, unit);
  const uint64_t end = align(begin + bytes.size(), unit);
  if (end > room.size()) {
    stop_writing(moe::exhausted(fmt::format("expected about {} in all, got more", gb(expected_bytes_))));
    return std::nullopt;
  }
  if (const auto status = new_->write_at(begin, bytes, end - begin - bytes.size()); !status.ok()) {
    stop_writing(status.error());
    return std::nullopt;
  }
  if (in_memory_ && forgets_) new_->forget();
  new_weights_.push_back({key, {begin, bytes.size()}});
  end_ = end;
  return room.subspan(begin, bytes.size());
}

// What has been written stays for this run, without a name. A folder that nobody may write to is no news.
void PackedCache::stop_writing(const moe::Error& why) {
  may_write_ = false;
  new_.reset();
  if (automatic_ && why.code == MOE_PERMISSION_DENIED) return;
  notes_.push_back(fmt::format("packed weights are not kept for the next start: {}", why.message));
}

void PackedCache::finish() {
  if (!new_) return;
  nlohmann::json doc;
  for (const auto& [what, is] : identity_) doc["for"][what] = is;
  for (const auto& [key, w] : new_weights_) doc["weights"].push_back({key, w.offset, w.n_bytes});
  const std::string text = doc.dump();
  Header header{};
  std::memcpy(header.magic, kMagic, sizeof(header.magic));
  header.directory = end_;
  header.directory_bytes = text.size();
  std::memcpy(header.hash, hash_of(end_, text).data(), kHashDigits);
  const auto write_all = [&]() -> moe::Status {
    MOE_TRY(new_->write_at(end_, bytes_of(text)));
    MOE_TRY(new_->write_at(0, bytes_of({reinterpret_cast<const char*>(&header), sizeof(header)})));
    MOE_TRY(new_->cut(end_ + text.size()));
    return new_->commit();
  };
  if (const auto status = write_all(); !status.ok()) return stop_writing(status.error());
  notes_.push_back(fmt::format("packed weights are in {} ({}): the next start takes them from there (model.packed_cache)",
                               path_.string(), gb(end_ + text.size())));
  new_.reset();
  may_write_ = false;
}

PackedCaches::PackedCaches(PackedCacheOptions options, const Checkpoint& checkpoint, ThreadPool& pool)
    : options_(std::move(options)), checkpoint_(checkpoint), pool_(pool) {
  on_ = options_.where != "off" && !checkpoint.files().empty() &&
        (options_.where != "auto" || checkpoint.file_bytes() >= kAutomaticBytes);
}

moe::Result<PreparedWeight> PackedCaches::prepare(Device& device, const moe_weight_source& source,
                                                  const std::string& key, bool* from_file) {
  *from_file = false;
  if (!on_ || !device.has_packed_bytes()) return device.prepare(source);
  auto& cache = caches_[&device];
  if (cache == nullptr) cache = std::make_unique<PackedCache>(device, options_, checkpoint_, pool_);
  return cache->prepare(source, key, from_file);
}

std::vector<std::string> PackedCaches::finish() {
  std::vector<std::string> notes;
  for (const auto& [device, cache] : caches_) {
    cache->finish();
    notes.insert(notes.end(), cache->notes().begin(), cache->notes().end());
  }
  return notes;
}

}  // namespace patchbay
