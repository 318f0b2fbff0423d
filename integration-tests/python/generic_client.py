"""A gRPC client that knows no proto of ours: all it calls it learns through reflection.

Usage: generic_client.py AGENT SERVER CGROUP_PATH

Prints one JSON document: the services, the health and an ancestors walk of each daemon, and how a
request is refused. It must not import generated code, and must not know what the answers mean.
"""

import json
import sys

import grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

CALL_SECONDS_MAX = 10


class Daemon:
    """One address, and the descriptors that it gives of itself."""

    def __init__(self, address):
        self.channel = grpc.insecure_channel(address)
        self.reflection = ProtoReflectionDescriptorDatabase(self.channel)
        self.pool = descriptor_pool.DescriptorPool(self.reflection)

    def services(self):
        return sorted(self.reflection.get_services())

    def call(self, service, method, request):
        """Calls with a request in JSON's shape; gives the answers in JSON's shape, however many."""
        method = self.pool.FindServiceByName(service).FindMethodByName(method)
        request_class = message_factory.GetMessageClass(method.input_type)
        response_class = message_factory.GetMessageClass(method.output_type)
        kind = self.channel.unary_stream if method.server_streaming else self.channel.unary_unary
        rpc = kind(
            f"/{service}/{method.name}",
            request_serializer=request_class.SerializeToString,
            response_deserializer=response_class.FromString,
        )
        answer = rpc(json_format.ParseDict(request, request_class()), timeout=CALL_SECONDS_MAX)
        answers = answer if method.server_streaming else [answer]
        return [json_format.MessageToDict(each, preserving_proto_field_name=True) for each in answers]

    def refusal(self, service, method, request):
        """How a call is refused: its code, its text and what the status carries beside them."""
        try:
            self.call(service, method, request)
        except grpc.RpcError as error:
            trailers = dict(error.trailing_metadata())
            status_class = message_factory.GetMessageClass(self.pool.FindMessageTypeByName("google.rpc.Status"))
            status = status_class.FromString(trailers["grpc-status-details-bin"])
            status = json_format.MessageToDict(status, descriptor_pool=self.pool)
            return {"code": error.code().name, "message": error.details(), "details": status["details"]}
        sys.exit("a call that ought to be refused was answered")

    def health(self):
        return self.call("grpc.health.v1.Health", "Check", {})[0]["status"]


def main(agent_address, server_address, cgroup_path):
    agent, server = Daemon(agent_address), Daemon(server_address)
    spec = {"target": {"path": cgroup_path}, "order": "CGROUP_ORDER_ANCESTORS_UP", "read_mask": "cpu.usageUsec"}
    query = {"hosts": {"all": True}, "spec": spec, "host_timeout": "5s"}
    document = {
        "agent": {
            "services": agent.services(),
            "health": agent.health(),
            "walk": agent.call("cgfleet.v1.AgentService", "Walk", {"spec": spec}),
        },
        "server": {
            "services": server.services(),
            "health": server.health(),
            "query": server.call("cgfleet.v1.FleetService", "Query", query),
        },
        "refused": agent.refusal("cgfleet.v1.AgentService", "Walk", {"spec": {"target": {"path": cgroup_path}}}),
    }
    json.dump(document, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
