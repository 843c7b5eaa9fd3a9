// A random model in memory.
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <map>
#include <numeric>

#include "core/engine/random_model.hpp"

namespace patchbay {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kPatternBytes = uint64_t{8} << 20;

// A few MiB of random numbers, mapped again and again one after the other: as many bytes as a tensor may want, for the
// memory of a few.
class Pattern {
 public:
  Pattern() = default;
  Pattern(Pattern&& o) noexcept
      : data_(std::exchange(o.data_, nullptr)),
        n_bytes_(std::exchange(o.n_bytes_, 0)),
        unit_(o.unit_),
        size_(o.size_) {}
  Pattern& operator=(Pattern&&) = delete;
  ~Pattern() {
    if (data_ != nullptr) munmap(data_, n_bytes_);
  }

  // At least `n_bytes` from any offset that offset_of() gives.
  static moe::Result<Pattern> make(const RandomFill& fill, uint64_t n_bytes) {
    Pattern p;
    // Both a page and a unit repeat after so many bytes.
    p.unit_ = std::lcm(kPage, fill.unit_bytes());
    p.size_ = std::max<uint64_t>(kPatternBytes / p.unit_, 1) * p.unit_;
    const uint64_t repeats = n_bytes / p.size_ + 2;
    if (repeats > (uint64_t{1} << 47) / p.size_)
      return moe::exhausted(fmt::format("address space: expected {} bytes, got fewer", n_bytes));
    const int fd = memfd_create("random", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, static_cast<off_t>(p.size_)) != 0) return fail(fd, p.size_);
    void* all = mmap(nullptr, repeats * p.size_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (all == MAP_FAILED) return fail(fd, repeats * p.size_);
    p.data_ = static_cast<std::byte*>(all);
    p.n_bytes_ = repeats * p.size_;
    for (uint64_t i = 0; i < repeats; ++i) {
      if (mmap(p.data_ + i * p.size_, p.size_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED)
        return fail(fd, p.size_);
    }
    close(fd);
    fill.fill(0, {p.data_, p.size_});
    return p;
  }

  // Where a tensor of that name begins: different ones see different numbers.
  [[nodiscard]] const std::byte* at(std::string_view name) const {
    uint64_t hash = 0xcbf29ce484222325;
    for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
    return data_ + hash % (size_ / unit_) * unit_;
  }

 private:
  static moe::Error fail(int fd, uint64_t n_bytes) {
    const std::string reason = std::strerror(errno);
    if (fd >= 0) close(fd);
    return moe::exhausted(fmt::format("memory: expected {} bytes, got: {}", n_bytes, reason));
  }

  std::byte* data_ = nullptr;
  uint64_t n_bytes_ = 0;
  uint64_t unit_ = kPage;
  uint64_t size_ = kPage;
};

class RandomCheckpoint final : public Checkpoint {
 public:
  moe::Status fill(std::vector<RandomTensor> tensors) {
    tensors_ = std::move(tensors);
    using Key = std::pair<std::string, RandomKind>;
    std::map<Key, uint64_t> largest;
    for (const auto& t : tensors_) {
      uint64_t& n = largest[{t.fill, t.kind}];
      n = std::max(n, stored_bytes(t.declaration));
    }
    std::map<Key, const Pattern*> patterns;
    patterns_.reserve(largest.size());
    for (const auto& [key, n_bytes] : largest) {
      MOE_ASSIGN(const RandomFill fill, RandomFill::make(key.first, key.second, 0, "pattern"));
      MOE_ASSIGN(Pattern pattern, Pattern::make(fill, n_bytes));
      patterns_.push_back(std::move(pattern));
      patterns[key] = &patterns_.back();
    }
    table_.reserve(tensors_.size());
    for (const auto& t : tensors_) {
      const TensorDeclaration& d = t.declaration;
      table_.add({d.name, d.encoding, d.shape, patterns[{t.fill, t.kind}]->at(d.name), stored_bytes(d)});
    }
    return {};
  }

 private:
  std::vector<RandomTensor> tensors_;  // owns names, encodings and shapes
  std::vector<Pattern> patterns_;
};

class RandomFiles final : public ModelFiles {
 public:
  RandomFiles(const ModelShape& shape, std::shared_ptr<const Checkpoint> checkpoint)
      : name_(shape.name), config_(shape.config), checkpoint_(std::move(checkpoint)) {}
  std::string format() const override { return "random weights"; }
  moe::Result<ModelDescription> describe() const override {
    ModelDescription out = describe_config(config_);
    out.source = fmt::format("shape {}", name_);
    return out;
  }
  moe::Result<std::shared_ptr<const Checkpoint>> checkpoint() override { return checkpoint_; }
  moe::Result<std::unique_ptr<Tokenizer>> tokenizer() const override { return std::unique_ptr<Tokenizer>(); }
  moe::Result<std::unique_ptr<ChatFormat>> chat_format() const override { return std::unique_ptr<ChatFormat>(); }
  moe::Result<std::vector<int32_t>> stop_ids() const override { return std::vector<int32_t>(); }

 private:
  std::string name_;
  nlohmann::json config_;
  std::shared_ptr<const Checkpoint> checkpoint_;
};

}  // namespace

moe::Result<std::unique_ptr<ModelFiles>> random_model_files(const ModelShape& shape, const ModelOutline& outline,
                                                            const std::string& type) {
  MOE_ASSIGN(auto tensors, random_tensors(outline, type, false));
  auto checkpoint = std::make_shared<RandomCheckpoint>();
  MOE_TRY(checkpoint->fill(std::move(tensors)));
  return std::unique_ptr<ModelFiles>(std::make_unique<RandomFiles>(shape, std::move(checkpoint)));
}

}  // namespace patchbay
