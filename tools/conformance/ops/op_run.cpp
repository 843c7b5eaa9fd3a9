#include "tools/conformance/ops/op_run.hpp"

#include <algorithm>

#include "moe/sdk/loops.hpp"
#include "tools/conformance/compute.hpp"

namespace patchbay::conformance {
namespace {

Outcome failed(const moe::Error& error) {
  return {error.code == MOE_UNIMPLEMENTED ? Outcome::kRefused : Outcome::kWrong, error.message, {}};
}

const moe_backend_rows& host_rows() {
  static const moe_backend_rows rows = [] {
    auto r = moe::make<moe_backend_rows>();
    r.shape = [](const moe_weight* weight, int64_t shape[3]) {
      const auto& w = *reinterpret_cast<const HostWeight*>(weight);
      shape[0] = w.n_groups, shape[1] = w.n_out, shape[2] = w.n_in;
    };
    r.row = [](const moe_weight* weight, int64_t group, int64_t row, float*) -> const float* {
      const auto& w = *reinterpret_cast<const HostWeight*>(weight);
      return w.values.data() + (group * w.n_out + row) * w.n_in;
    };
    return r;
  }();
  return rows;
}

}  // namespace

moe::Result<std::unique_ptr<BackendUnderTest>> BackendUnderTest::open(const moe_backend& backend, const moe_host* host,
                                                                      const std::vector<GivenOption>& given) {
  std::unique_ptr<BackendUnderTest> out(new BackendUnderTest(backend));
  MOE_ASSIGN(const OptionValues values, check_options(backend.component, given, backend.component.name));
  MOE_TRY(across([&](moe_message* m) {
    return backend.create(host, values.data(), values.size(), &out->instance_, &out->description_, m);
  }));
  if (backend.component.get_extension != nullptr) {
    out->rows_ = static_cast<const moe_backend_rows*>(backend.component.get_extension(MOE_BACKEND_ROWS_ID));
  }
  return out;
}
BackendUnderTest::~BackendUnderTest() {
  if (instance_ != nullptr) backend_.destroy(instance_);
}

CaseRun::~CaseRun() {
  for (auto& w : prepared_) w.release(&w);
  for (auto& buffer : buffers_) buffer.release(&buffer);
}

Outcome CaseRun::run(int64_t n_rows) {
  if (auto status = prepare(n_rows); !status.ok()) return failed(status.error());
  if (auto status = launch(); !status.ok()) return failed(status.error());
  if (auto status = collect(); !status.ok()) return failed(status.error());
  return {Outcome::kSame, "", std::move(got_)};
}

Outcome CaseRun::compare(const std::function<void(std::deque<Array>&)>& spoil) {
  Outcome outcome = run();
  if (outcome.kind != Outcome::kSame) return outcome;
  if (spoil) spoil(outcome.got);
  std::deque<Array> before = c_.arrays;
  std::deque<Array> want = c_.arrays;
  auto inputs = bind(before);
  auto args = bind(want);
  const moe::loops::LoopContext context{nullptr, loop_rows()};
  const moe::loops::LoopOp* loop = moe::loops::find(c_.op);
  auto& header = reinterpret_cast<moe_op_args&>(*args.data());
  std::vector<uint64_t> workspace(loop->workspace(header, context) / 8 + 8);
  header.workspace = reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(workspace.data()) + 7) / 8 * 8);
  header.workspace_bytes = workspace.size() * 8;
  if (auto status = loop->run(header, context); !status.ok())
    return {Outcome::kWrong, "loops: " + status.error().message, {}};
  const auto& input_args = reinterpret_cast<const moe_op_args&>(*inputs.data());
  if (c_.compare) {
    outcome.text = c_.compare(input_args, want, outcome.got);
  } else {
    Tolerances tolerances;
    for (size_t a = 0; a < c_.arrays.size(); ++a) tolerances[a].assign(static_cast<size_t>(c_.arrays[a].n), 0.0);
    c_.tolerance(input_args, weight_row(), tolerances);
    outcome.text = difference(want, outcome.got, tolerances);
  }
  if (!outcome.text.empty()) outcome.kind = Outcome::kWrong;
  return outcome;
}

moe::Status CaseRun::prepare_weights() {
  if (!prepared_.empty()) return {};
  const CheckHost::ComputeScope may_compute;
  for (const HostWeight& w : c_.weights) {
    auto source = moe::make<moe_weight_source>();
    source.name = "case";
    source.role = "weight";
    source.encoding = "f32";
    source.wanted = wanted_;
    source.n_groups = w.n_groups;
    source.n_out = w.n_out;
    source.n_in = w.n_in;
    source.uses = c_.op == MOE_OP_EMBED ? MOE_USE_EMBED : MOE_USE_MATMUL;
    source.context = const_cast<HostWeight*>(&w);
    source.read_f32 = [](void* context, int64_t group, int64_t row, int64_t n_rows, float* out) {
      const auto& from = *static_cast<const HostWeight*>(context);
      std::copy_n(from.values.data() + (group * from.n_out + row) * from.n_in, n_rows * from.n_in, out);
    };
    source.raw = [](void* context, int64_t group) -> const void* {
      const auto& from = *static_cast<const HostWeight*>(context);
      return from.values.data() + group * from.n_out * from.n_in;
    };
    source.done = [](void*, int64_t) {};
    auto prepared = moe::make<moe_prepared>();
    MOE_TRY(across([&](moe_message* m) { return b_.prepare(t_.instance(), &source, &prepared, m); }));
    prepared_.push_back(prepared);
  }
  return {};
}
const moe_backend_rows* CaseRun::loop_rows() const { return t_.rows() != nullptr ? t_.rows() : &host_rows(); }
const moe_weight* CaseRun::loop_weight(size_t i) const {
  return t_.rows() != nullptr ? prepared_[i].weight : reinterpret_cast<const moe_weight*>(&c_.weights[i]);
}
WeightRow CaseRun::weight_row() {
  return [this](const moe_weight* weight, int64_t group, int64_t row) {
    scratch_.resize(4096);
    return loop_rows()->row(weight, group, row, scratch_.data());
  };
}

moe_tensor& CaseRun::tensor_at(Args& args, size_t offset) const {
  return *reinterpret_cast<moe_tensor*>(reinterpret_cast<char*>(args.data()) + offset);
}
CaseRun::Args CaseRun::make_args(moe_device device, bool loop_weights,
                                 const std::function<void*(const OpCase::Slot&)>& data_of) const {
  Args args = c_.args;
  for (const auto& slot : c_.slots) {
    moe_tensor& tensor = tensor_at(args, slot.offset);
    tensor.data = data_of(slot);
    tensor.device = device;
  }
  for (const auto& slot : c_.weight_slots) {
    const moe_weight* weight = loop_weights ? loop_weight(slot.weight) : prepared_[slot.weight].weight;
    std::memcpy(reinterpret_cast<char*>(args.data()) + slot.offset, &weight, sizeof(weight));
  }
  return args;
}
CaseRun::Args CaseRun::bind(std::deque<Array>& arrays) const {
  return make_args(moe::kHost, true, [&](const OpCase::Slot& slot) -> void* {
    return arrays[slot.array].as<char>() + slot.first * dtype_bytes(arrays[slot.array].dtype);
  });
}

moe::Result<void*> CaseRun::to_device(const void* from, int64_t n_bytes) {
  std::vector<uint8_t> image(static_cast<size_t>(n_bytes) + 2 * kCanary, 0xFF);
  if (n_bytes > 0) std::memcpy(image.data() + kCanary, from, static_cast<size_t>(n_bytes));
  auto buffer = moe::make<moe_buffer>();
  MOE_TRY(across([&](moe_message* m) { return b_.alloc(t_.instance(), image.size(), MOE_MEMORY_DEVICE, &buffer, m); }));
  buffers_.push_back(buffer);
  MOE_TRY(across([&](moe_message* m) {
    return b_.copy(t_.instance(), buffer.data, image.data(), image.size(), MOE_COPY_TO_DEVICE, t_.description().stream,
                   m);
  }));
  return static_cast<char*>(buffer.data) + kCanary;
}

moe::Status CaseRun::from_device(void* to, const void* data, int64_t n_bytes, const std::string& what) {
  std::vector<uint8_t> image(static_cast<size_t>(n_bytes) + 2 * kCanary);
  void* stream = t_.description().stream;
  MOE_TRY(across([&](moe_message* m) {
    return b_.copy(t_.instance(), image.data(), static_cast<const char*>(data) - kCanary, image.size(),
                   MOE_COPY_TO_HOST, stream, m);
  }));
  MOE_TRY(across([&](moe_message* m) { return b_.sync(t_.instance(), stream, m); }));
  if (n_bytes > 0) std::memcpy(to, image.data() + kCanary, static_cast<size_t>(n_bytes));
  for (size_t i = 0; i < image.size(); ++i) {
    const bool canary = i < kCanary || i >= kCanary + static_cast<size_t>(n_bytes);
    if (canary && image[i] != 0xFF)
      return moe::internal(what + ": expected nothing to be written beside its " + std::to_string(n_bytes) +
                           " bytes, got some");
  }
  return {};
}

moe::Status CaseRun::prepare(int64_t n_rows) {
  n_rows_ = n_rows < 0 ? c_.n_rows : n_rows;
  MOE_TRY(prepare_weights());
  Args largest = make_args(t_.description().device, false, [](const OpCase::Slot&) -> void* { return nullptr; });
  info_ = moe::make<moe_op_info>();
  MOE_TRY(across([&](moe_message* m) {
    return b_.find_op(t_.instance(), c_.op.c_str(), reinterpret_cast<moe_op_args*>(largest.data()), &info_, m);
  }));
  data_.clear();
  for (const Array& a : c_.arrays) {
    MOE_ASSIGN(void* on_device, to_device(a.words.data(), a.n_bytes()));
    data_.push_back(on_device);
  }
  args_ = make_args(t_.description().device, false, [&](const OpCase::Slot& slot) -> void* {
    return static_cast<char*>(data_[slot.array]) + slot.first * dtype_bytes(c_.arrays[slot.array].dtype);
  });
  for (const auto& slot : c_.slots) {
    if (slot.rows) tensor_at(args_, slot.offset).shape[0] = n_rows_;
  }
  const std::vector<uint8_t> poison(info_.workspace_bytes, 0xFF);  // NaN: what is read before it is written shows
  MOE_ASSIGN(workspace_, to_device(poison.data(), static_cast<int64_t>(poison.size())));
  header().workspace = workspace_;
  header().workspace_bytes = info_.workspace_bytes;
  return across([&](moe_message* m) { return b_.sync(t_.instance(), t_.description().stream, m); });
}

moe::Status CaseRun::refill(const OpCase& other) {
  for (size_t i = 0; i < data_.size(); ++i) {
    const Array& a = other.arrays[i];
    MOE_TRY(across([&](moe_message* m) {
      return b_.copy(t_.instance(), data_[i], a.words.data(), static_cast<uint64_t>(a.n_bytes()), MOE_COPY_TO_DEVICE,
                     t_.description().stream, m);
    }));
  }
  return across([&](moe_message* m) { return b_.sync(t_.instance(), t_.description().stream, m); });
}

double CaseRun::bytes_per_weight() const {
  double bytes = 0, elements = 0;
  for (const auto& p : prepared_) bytes += static_cast<double>(p.n_bytes);
  for (const auto& w : c_.weights) elements += static_cast<double>(w.values.size());
  return elements == 0 ? 0 : bytes / elements;
}

moe::Status CaseRun::launch() {
  return across(
      [&](moe_message* m) { return b_.launch(t_.instance(), info_.op, &header(), t_.description().stream, m); });
}

moe::Status CaseRun::collect() {
  got_ = c_.arrays;
  for (size_t i = 0; i < got_.size(); ++i) {
    MOE_TRY(from_device(got_[i].words.data(), data_[i], got_[i].n_bytes(), "array " + std::to_string(i)));
  }
  std::vector<uint8_t> after(info_.workspace_bytes);
  return from_device(after.data(), workspace_, static_cast<int64_t>(after.size()), "workspace");
}

std::string CaseRun::difference(const std::deque<Array>& want, const std::deque<Array>& got,
                                const Tolerances& tolerances) const {
  for (size_t a = 0; a < want.size(); ++a) {
    if (want[a].dtype != MOE_F32) {
      if (std::memcmp(want[a].words.data(), got[a].words.data(), static_cast<size_t>(want[a].n_bytes())) == 0) continue;
      return "array " + std::to_string(a) + ": expected the same bytes, got others";
    }
    for (int64_t i = 0; i < want[a].n; ++i) {
      const float w = want[a].as<float>()[i];
      const float g = got[a].as<float>()[i];
      if (std::bit_cast<uint32_t>(w) == std::bit_cast<uint32_t>(g) || (std::isnan(w) && std::isnan(g))) continue;
      const double tol = tolerances.at(a)[static_cast<size_t>(i)];
      if (!(std::fabs(static_cast<double>(g) - w) <= tol)) {
        char text[160];
        std::snprintf(text, sizeof(text), "array %zu element %lld: expected %.9g +- %.3g, got %.9g", a,
                      static_cast<long long>(i), w, tol, g);
        return text;
      }
    }
  }
  return "";
}

}  // namespace patchbay::conformance
