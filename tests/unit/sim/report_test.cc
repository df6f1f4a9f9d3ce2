#include "sim/report.h"

#include <gtest/gtest.h>

#include "proto/report.pb.h"

namespace simrun {
namespace {

// Sets every field of a message to a value of its own.
void FillAll(google::protobuf::Message* message, int* next) {
  using google::protobuf::FieldDescriptor;
  const auto* reflection = message->GetReflection();
  for (int i = 0; i < message->GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor* f = message->GetDescriptor()->field(i);
    const int n = ++*next;
    if (f->is_map()) {
      google::protobuf::Message* entry = reflection->AddMessage(message, f);
      FillAll(entry, next);
    } else if (f->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      FillAll(f->is_repeated() ? reflection->AddMessage(message, f) : reflection->MutableMessage(message, f), next);
    } else if (f->cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
      const std::string text = "text" + std::to_string(n);
      if (f->is_repeated()) {
        reflection->AddString(message, f, text);
      } else {
        reflection->SetString(message, f, text);
      }
    } else if (f->cpp_type() == FieldDescriptor::CPPTYPE_DOUBLE && f->is_repeated()) {
      reflection->AddDouble(message, f, n);
    } else if (f->cpp_type() == FieldDescriptor::CPPTYPE_DOUBLE) {
      reflection->SetDouble(message, f, n);
    } else if (f->cpp_type() == FieldDescriptor::CPPTYPE_UINT32 && f->is_repeated()) {
      reflection->AddUInt32(message, f, static_cast<uint32_t>(n));
    } else if (f->cpp_type() == FieldDescriptor::CPPTYPE_UINT32) {
      reflection->SetUInt32(message, f, static_cast<uint32_t>(n));
    } else if (f->cpp_type() == FieldDescriptor::CPPTYPE_BOOL) {
      reflection->SetBool(message, f, true);
    } else {
      ADD_FAILURE() << f->full_name() << " has a type that this test does not know";
    }
  }
}

// What FromBinary forgets would be lost between processes.
TEST(Report, EveryFieldSurvivesTheBinaryForm) {
  proto::Report message;
  int next = 0;
  FillAll(&message, &next);
  const auto report = Report::FromBinary(message.SerializeAsString());
  ASSERT_TRUE(report.ok());
  proto::Report back;
  ASSERT_TRUE(back.ParseFromString(report->ToBinary()));
  EXPECT_EQ(back.DebugString(), message.DebugString());
  EXPECT_FALSE(Report::FromBinary("no report").ok());
}

}  // namespace
}  // namespace simrun
