// The wire may grow, but nothing that a client of the first version says or hears may change its meaning.
#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor.pb.h>
#include <gtest/gtest.h>

#include <fstream>
#include <functional>
#include <string>
#include <vector>

namespace {

namespace pb = google::protobuf;

pb::FileDescriptorProto read(const std::string& name) {
  std::ifstream in(std::string(DESCRIPTORS "/") + name + ".pb", std::ios::binary);
  pb::FileDescriptorSet set;
  EXPECT_TRUE(set.ParseFromIstream(&in)) << name;
  return set.file_size() == 1 ? set.file(0) : pb::FileDescriptorProto();
}

template <typename List>
auto find(const List& list, const std::string& name) -> decltype(&list.Get(0)) {
  for (const auto& item : list) {
    if (item.name() == name) return &item;
  }
  return nullptr;
}

// What a field is on the wire and in JSON.
std::string shape_of(const pb::DescriptorProto& message, const pb::FieldDescriptorProto& f) {
  const std::string oneof =
      f.has_oneof_index() && !f.proto3_optional() ? message.oneof_decl(f.oneof_index()).name() : "";
  return f.name() + " = " + std::to_string(f.number()) + ", type " + std::to_string(f.type()) + " " + f.type_name() +
         ", label " + std::to_string(f.label()) + (f.proto3_optional() ? ", optional" : "") + ", oneof " + oneof;
}

bool is_reserved(const pb::DescriptorProto& message, const pb::FieldDescriptorProto& f) {
  bool number = false;
  for (const auto& r : message.reserved_range()) number = number || (f.number() >= r.start() && f.number() < r.end());
  bool name = false;
  for (const auto& n : message.reserved_name()) name = name || n == f.name();
  return number && name;
}

void compare(const std::string& path, const pb::DescriptorProto& old, const pb::DescriptorProto& now,
             std::vector<std::string>& broken) {
  for (const auto& f : old.field()) {
    const auto* same = find(now.field(), f.name());
    if (same == nullptr) {
      if (!is_reserved(now, f)) broken.push_back(path + "." + f.name() + " is gone and not reserved");
    } else if (shape_of(old, f) != shape_of(now, *same)) {
      broken.push_back(path + "." + shape_of(old, f) + " became " + shape_of(now, *same));
    }
  }
  for (const auto& nested : old.nested_type()) {
    const auto* same = find(now.nested_type(), nested.name());
    if (same == nullptr) {
      broken.push_back(path + "." + nested.name() + " is gone");
    } else {
      compare(path + "." + nested.name(), nested, *same, broken);
    }
  }
  for (const auto& e : old.enum_type()) {
    const auto* same = find(now.enum_type(), e.name());
    for (const auto& v : e.value()) {
      const auto* value = same == nullptr ? nullptr : find(same->value(), v.name());
      if (value == nullptr || value->number() != v.number())
        broken.push_back(path + "." + v.name() + " changed or is gone");
    }
  }
}

std::vector<std::string> breaks(const pb::FileDescriptorProto& old, const pb::FileDescriptorProto& now) {
  std::vector<std::string> broken;
  if (old.package() != now.package()) broken.push_back("the package changed");
  pb::DescriptorProto old_file;
  pb::DescriptorProto now_file;
  *old_file.mutable_nested_type() = old.message_type();
  *now_file.mutable_nested_type() = now.message_type();
  *old_file.mutable_enum_type() = old.enum_type();
  *now_file.mutable_enum_type() = now.enum_type();
  compare("", old_file, now_file, broken);
  return broken;
}

TEST(Schema, nothing_of_the_first_version_has_changed) {
  const auto old = read("first");
  ASSERT_GT(old.message_type_size(), 20);
  for (const std::string& b : breaks(old, read("today"))) ADD_FAILURE() << b;
}

TEST(Schema, the_comparison_sees_every_kind_of_change) {
  const auto old = read("first");
  const auto change = [&](const std::function<void(pb::DescriptorProto*)>& f) {
    pb::FileDescriptorProto now = old;
    for (auto& m : *now.mutable_message_type()) {
      if (m.name() == "Tokens") f(&m);
    }
    return breaks(old, now).size();
  };
  EXPECT_EQ(change([](pb::DescriptorProto*) {}), 0U);
  EXPECT_EQ(change([](pb::DescriptorProto* m) { m->mutable_field(0)->set_number(77); }), 1U);
  EXPECT_EQ(
      change([](pb::DescriptorProto* m) { m->mutable_field(0)->set_type(pb::FieldDescriptorProto::TYPE_STRING); }), 1U);
  EXPECT_EQ(change([](pb::DescriptorProto* m) { m->mutable_field(0)->set_name("other"); }), 1U);
  EXPECT_EQ(
      change([](pb::DescriptorProto* m) { m->mutable_field(0)->set_label(pb::FieldDescriptorProto::LABEL_REPEATED); }),
      1U);
  EXPECT_EQ(change([](pb::DescriptorProto* m) { m->mutable_field()->RemoveLast(); }), 1U);
  EXPECT_EQ(change([](pb::DescriptorProto* m) {
              const auto gone = m->field(m->field_size() - 1);
              m->mutable_field()->RemoveLast();
              m->add_reserved_name(gone.name());
              auto* range = m->add_reserved_range();
              range->set_start(gone.number());
              range->set_end(gone.number() + 1);
            }),
            0U);
  EXPECT_EQ(change([](pb::DescriptorProto* m) { m->set_name("Renamed"); }), 1U);
}

}  // namespace
