package dev.agentctl.v1;

import static io.grpc.MethodDescriptor.generateFullMethodName;

/**
 * <pre>
 * Takes in what monitors see.
 * </pre>
 */
@io.grpc.stub.annotations.GrpcGenerated
public final class TelemetryServiceGrpc {

  private TelemetryServiceGrpc() {}

  public static final java.lang.String SERVICE_NAME = "agentctl.v1.TelemetryService";

  // Static method descriptors that strictly reflect the proto.
  private static volatile io.grpc.MethodDescriptor<dev.agentctl.v1.PushSignalsRequest,
      dev.agentctl.v1.PushSignalsResponse> getPushSignalsMethod;

  @io.grpc.stub.annotations.RpcMethod(
      fullMethodName = SERVICE_NAME + '/' + "PushSignals",
      requestType = dev.agentctl.v1.PushSignalsRequest.class,
      responseType = dev.agentctl.v1.PushSignalsResponse.class,
      methodType = io.grpc.MethodDescriptor.MethodType.CLIENT_STREAMING)
  public static io.grpc.MethodDescriptor<dev.agentctl.v1.PushSignalsRequest,
      dev.agentctl.v1.PushSignalsResponse> getPushSignalsMethod() {
    io.grpc.MethodDescriptor<dev.agentctl.v1.PushSignalsRequest, dev.agentctl.v1.PushSignalsResponse> getPushSignalsMethod;
    if ((getPushSignalsMethod = TelemetryServiceGrpc.getPushSignalsMethod) == null) {
      synchronized (TelemetryServiceGrpc.class) {
        if ((getPushSignalsMethod = TelemetryServiceGrpc.getPushSignalsMethod) == null) {
          TelemetryServiceGrpc.getPushSignalsMethod = getPushSignalsMethod =
              io.grpc.MethodDescriptor.<dev.agentctl.v1.PushSignalsRequest, dev.agentctl.v1.PushSignalsResponse>newBuilder()
              .setType(io.grpc.MethodDescriptor.MethodType.CLIENT_STREAMING)
              .setFullMethodName(generateFullMethodName(SERVICE_NAME, "PushSignals"))
              .setSampledToLocalTracing(true)
              .setRequestMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.agentctl.v1.PushSignalsRequest.getDefaultInstance()))
              .setResponseMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.agentctl.v1.PushSignalsResponse.getDefaultInstance()))
              .setSchemaDescriptor(new TelemetryServiceMethodDescriptorSupplier("PushSignals"))
              .build();
        }
      }
    }
    return getPushSignalsMethod;
  }

  private static volatile io.grpc.MethodDescriptor<dev.agentctl.v1.StreamSignalsRequest,
      dev.agentctl.v1.StreamSignalsResponse> getStreamSignalsMethod;

  @io.grpc.stub.annotations.RpcMethod(
      fullMethodName = SERVICE_NAME + '/' + "StreamSignals",
      requestType = dev.agentctl.v1.StreamSignalsRequest.class,
      responseType = dev.agentctl.v1.StreamSignalsResponse.class,
      methodType = io.grpc.MethodDescriptor.MethodType.BIDI_STREAMING)
  public static io.grpc.MethodDescriptor<dev.agentctl.v1.StreamSignalsRequest,
      dev.agentctl.v1.StreamSignalsResponse> getStreamSignalsMethod() {
    io.grpc.MethodDescriptor<dev.agentctl.v1.StreamSignalsRequest, dev.agentctl.v1.StreamSignalsResponse> getStreamSignalsMethod;
    if ((getStreamSignalsMethod = TelemetryServiceGrpc.getStreamSignalsMethod) == null) {
      synchronized (TelemetryServiceGrpc.class) {
        if ((getStreamSignalsMethod = TelemetryServiceGrpc.getStreamSignalsMethod) == null) {
          TelemetryServiceGrpc.getStreamSignalsMethod = getStreamSignalsMethod =
              io.grpc.MethodDescriptor.<dev.agentctl.v1.StreamSignalsRequest, dev.agentctl.v1.StreamSignalsResponse>newBuilder()
              .setType(io.grpc.MethodDescriptor.MethodType.BIDI_STREAMING)
              .setFullMethodName(generateFullMethodName(SERVICE_NAME, "StreamSignals"))
              .setSampledToLocalTracing(true)
              .setRequestMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.agentctl.v1.StreamSignalsRequest.getDefaultInstance()))
              .setResponseMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.agentctl.v1.StreamSignalsResponse.getDefaultInstance()))
              .setSchemaDescriptor(new TelemetryServiceMethodDescriptorSupplier("StreamSignals"))
              .build();
        }
      }
    }
    return getStreamSignalsMethod;
  }

  private static volatile io.grpc.MethodDescriptor<dev.agentctl.v1.WatchSignalsRequest,
      dev.agentctl.v1.WatchSignalsResponse> getWatchSignalsMethod;

  @io.grpc.stub.annotations.RpcMethod(
      fullMethodName = SERVICE_NAME + '/' + "WatchSignals",
      requestType = dev.agentctl.v1.WatchSignalsRequest.class,
      responseType = dev.agentctl.v1.WatchSignalsResponse.class,
      methodType = io.grpc.MethodDescriptor.MethodType.SERVER_STREAMING)
  public static io.grpc.MethodDescriptor<dev.agentctl.v1.WatchSignalsRequest,
      dev.agentctl.v1.WatchSignalsResponse> getWatchSignalsMethod() {
    io.grpc.MethodDescriptor<dev.agentctl.v1.WatchSignalsRequest, dev.agentctl.v1.WatchSignalsResponse> getWatchSignalsMethod;
    if ((getWatchSignalsMethod = TelemetryServiceGrpc.getWatchSignalsMethod) == null) {
      synchronized (TelemetryServiceGrpc.class) {
        if ((getWatchSignalsMethod = TelemetryServiceGrpc.getWatchSignalsMethod) == null) {
          TelemetryServiceGrpc.getWatchSignalsMethod = getWatchSignalsMethod =
              io.grpc.MethodDescriptor.<dev.agentctl.v1.WatchSignalsRequest, dev.agentctl.v1.WatchSignalsResponse>newBuilder()
              .setType(io.grpc.MethodDescriptor.MethodType.SERVER_STREAMING)
              .setFullMethodName(generateFullMethodName(SERVICE_NAME, "WatchSignals"))
              .setSampledToLocalTracing(true)
              .setRequestMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.agentctl.v1.WatchSignalsRequest.getDefaultInstance()))
              .setResponseMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.agentctl.v1.WatchSignalsResponse.getDefaultInstance()))
              .setSchemaDescriptor(new TelemetryServiceMethodDescriptorSupplier("WatchSignals"))
              .build();
        }
      }
    }
    return getWatchSignalsMethod;
  }

  /**
   * Creates a new async stub that supports all call types for the service
   */
  public static TelemetryServiceStub newStub(io.grpc.Channel channel) {
    io.grpc.stub.AbstractStub.StubFactory<TelemetryServiceStub> factory =
      new io.grpc.stub.AbstractStub.StubFactory<TelemetryServiceStub>() {
        @java.lang.Override
        public TelemetryServiceStub newStub(io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
          return new TelemetryServiceStub(channel, callOptions);
        }
      };
    return TelemetryServiceStub.newStub(factory, channel);
  }

  /**
   * Creates a new blocking-style stub that supports all types of calls on the service
   */
  public static TelemetryServiceBlockingV2Stub newBlockingV2Stub(
      io.grpc.Channel channel) {
    io.grpc.stub.AbstractStub.StubFactory<TelemetryServiceBlockingV2Stub> factory =
      new io.grpc.stub.AbstractStub.StubFactory<TelemetryServiceBlockingV2Stub>() {
        @java.lang.Override
        public TelemetryServiceBlockingV2Stub newStub(io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
          return new TelemetryServiceBlockingV2Stub(channel, callOptions);
        }
      };
    return TelemetryServiceBlockingV2Stub.newStub(factory, channel);
  }

  /**
   * Creates a new blocking-style stub that supports unary and streaming output calls on the service
   */
  public static TelemetryServiceBlockingStub newBlockingStub(
      io.grpc.Channel channel) {
    io.grpc.stub.AbstractStub.StubFactory<TelemetryServiceBlockingStub> factory =
      new io.grpc.stub.AbstractStub.StubFactory<TelemetryServiceBlockingStub>() {
        @java.lang.Override
        public TelemetryServiceBlockingStub newStub(io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
          return new TelemetryServiceBlockingStub(channel, callOptions);
        }
      };
    return TelemetryServiceBlockingStub.newStub(factory, channel);
  }

  /**
   * Creates a new ListenableFuture-style stub that supports unary calls on the service
   */
  public static TelemetryServiceFutureStub newFutureStub(
      io.grpc.Channel channel) {
    io.grpc.stub.AbstractStub.StubFactory<TelemetryServiceFutureStub> factory =
      new io.grpc.stub.AbstractStub.StubFactory<TelemetryServiceFutureStub>() {
        @java.lang.Override
        public TelemetryServiceFutureStub newStub(io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
          return new TelemetryServiceFutureStub(channel, callOptions);
        }
      };
    return TelemetryServiceFutureStub.newStub(factory, channel);
  }

  /**
   * <pre>
   * Takes in what monitors see.
   * </pre>
   */
  public interface AsyncService {

    /**
     * <pre>
     * A monitor opens with Hello, sends batches, and closes with Bye; the summary comes at the end. A bad signal is rejected
     * alone; after 100 bad ones the stream ends with INVALID_ARGUMENT. An end without Bye is the loss of the monitor, never of
     * the app.
     * </pre>
     */
    default io.grpc.stub.StreamObserver<dev.agentctl.v1.PushSignalsRequest> pushSignals(
        io.grpc.stub.StreamObserver<dev.agentctl.v1.PushSignalsResponse> responseObserver) {
      return io.grpc.stub.ServerCalls.asyncUnimplementedStreamingCall(getPushSignalsMethod(), responseObserver);
    }

    /**
     * <pre>
     * The same for a monitor that stays: the server says as it goes what it has. Its first answer names the number to go on behind;
     * acknowledgements are cumulative, come at least every 10 s and at once for what was rejected. Bye is answered by the last one.
     * </pre>
     */
    default io.grpc.stub.StreamObserver<dev.agentctl.v1.StreamSignalsRequest> streamSignals(
        io.grpc.stub.StreamObserver<dev.agentctl.v1.StreamSignalsResponse> responseObserver) {
      return io.grpc.stub.ServerCalls.asyncUnimplementedStreamingCall(getStreamSignalsMethod(), responseObserver);
    }

    /**
     * <pre>
     * What decisions see: the newest reading of each app, now and whenever another one was taken. A reader that is slower than
     * readings are taken sees the newest one of each app, never a queue of old ones.
     * </pre>
     */
    default void watchSignals(dev.agentctl.v1.WatchSignalsRequest request,
        io.grpc.stub.StreamObserver<dev.agentctl.v1.WatchSignalsResponse> responseObserver) {
      io.grpc.stub.ServerCalls.asyncUnimplementedUnaryCall(getWatchSignalsMethod(), responseObserver);
    }
  }

  /**
   * Base class for the server implementation of the service TelemetryService.
   * <pre>
   * Takes in what monitors see.
   * </pre>
   */
  public static abstract class TelemetryServiceImplBase
      implements io.grpc.BindableService, AsyncService {

    @java.lang.Override public final io.grpc.ServerServiceDefinition bindService() {
      return TelemetryServiceGrpc.bindService(this);
    }
  }

  /**
   * A stub to allow clients to do asynchronous rpc calls to service TelemetryService.
   * <pre>
   * Takes in what monitors see.
   * </pre>
   */
  public static final class TelemetryServiceStub
      extends io.grpc.stub.AbstractAsyncStub<TelemetryServiceStub> {
    private TelemetryServiceStub(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      super(channel, callOptions);
    }

    @java.lang.Override
    protected TelemetryServiceStub build(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      return new TelemetryServiceStub(channel, callOptions);
    }

    /**
     * <pre>
     * A monitor opens with Hello, sends batches, and closes with Bye; the summary comes at the end. A bad signal is rejected
     * alone; after 100 bad ones the stream ends with INVALID_ARGUMENT. An end without Bye is the loss of the monitor, never of
     * the app.
     * </pre>
     */
    public io.grpc.stub.StreamObserver<dev.agentctl.v1.PushSignalsRequest> pushSignals(
        io.grpc.stub.StreamObserver<dev.agentctl.v1.PushSignalsResponse> responseObserver) {
      return io.grpc.stub.ClientCalls.asyncClientStreamingCall(
          getChannel().newCall(getPushSignalsMethod(), getCallOptions()), responseObserver);
    }

    /**
     * <pre>
     * The same for a monitor that stays: the server says as it goes what it has. Its first answer names the number to go on behind;
     * acknowledgements are cumulative, come at least every 10 s and at once for what was rejected. Bye is answered by the last one.
     * </pre>
     */
    public io.grpc.stub.StreamObserver<dev.agentctl.v1.StreamSignalsRequest> streamSignals(
        io.grpc.stub.StreamObserver<dev.agentctl.v1.StreamSignalsResponse> responseObserver) {
      return io.grpc.stub.ClientCalls.asyncBidiStreamingCall(
          getChannel().newCall(getStreamSignalsMethod(), getCallOptions()), responseObserver);
    }

    /**
     * <pre>
     * What decisions see: the newest reading of each app, now and whenever another one was taken. A reader that is slower than
     * readings are taken sees the newest one of each app, never a queue of old ones.
     * </pre>
     */
    public void watchSignals(dev.agentctl.v1.WatchSignalsRequest request,
        io.grpc.stub.StreamObserver<dev.agentctl.v1.WatchSignalsResponse> responseObserver) {
      io.grpc.stub.ClientCalls.asyncServerStreamingCall(
          getChannel().newCall(getWatchSignalsMethod(), getCallOptions()), request, responseObserver);
    }
  }

  /**
   * A stub to allow clients to do synchronous rpc calls to service TelemetryService.
   * <pre>
   * Takes in what monitors see.
   * </pre>
   */
  public static final class TelemetryServiceBlockingV2Stub
      extends io.grpc.stub.AbstractBlockingStub<TelemetryServiceBlockingV2Stub> {
    private TelemetryServiceBlockingV2Stub(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      super(channel, callOptions);
    }

    @java.lang.Override
    protected TelemetryServiceBlockingV2Stub build(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      return new TelemetryServiceBlockingV2Stub(channel, callOptions);
    }

    /**
     * <pre>
     * A monitor opens with Hello, sends batches, and closes with Bye; the summary comes at the end. A bad signal is rejected
     * alone; after 100 bad ones the stream ends with INVALID_ARGUMENT. An end without Bye is the loss of the monitor, never of
     * the app.
     * </pre>
     */
    @io.grpc.ExperimentalApi("https://github.com/grpc/grpc-java/issues/10918")
    public io.grpc.stub.BlockingClientCall<dev.agentctl.v1.PushSignalsRequest, dev.agentctl.v1.PushSignalsResponse>
        pushSignals() {
      return io.grpc.stub.ClientCalls.blockingClientStreamingCall(
          getChannel(), getPushSignalsMethod(), getCallOptions());
    }

    /**
     * <pre>
     * The same for a monitor that stays: the server says as it goes what it has. Its first answer names the number to go on behind;
     * acknowledgements are cumulative, come at least every 10 s and at once for what was rejected. Bye is answered by the last one.
     * </pre>
     */
    @io.grpc.ExperimentalApi("https://github.com/grpc/grpc-java/issues/10918")
    public io.grpc.stub.BlockingClientCall<dev.agentctl.v1.StreamSignalsRequest, dev.agentctl.v1.StreamSignalsResponse>
        streamSignals() {
      return io.grpc.stub.ClientCalls.blockingBidiStreamingCall(
          getChannel(), getStreamSignalsMethod(), getCallOptions());
    }

    /**
     * <pre>
     * What decisions see: the newest reading of each app, now and whenever another one was taken. A reader that is slower than
     * readings are taken sees the newest one of each app, never a queue of old ones.
     * </pre>
     */
    @io.grpc.ExperimentalApi("https://github.com/grpc/grpc-java/issues/10918")
    public io.grpc.stub.BlockingClientCall<?, dev.agentctl.v1.WatchSignalsResponse>
        watchSignals(dev.agentctl.v1.WatchSignalsRequest request) {
      return io.grpc.stub.ClientCalls.blockingV2ServerStreamingCall(
          getChannel(), getWatchSignalsMethod(), getCallOptions(), request);
    }
  }

  /**
   * A stub to allow clients to do limited synchronous rpc calls to service TelemetryService.
   * <pre>
   * Takes in what monitors see.
   * </pre>
   */
  public static final class TelemetryServiceBlockingStub
      extends io.grpc.stub.AbstractBlockingStub<TelemetryServiceBlockingStub> {
    private TelemetryServiceBlockingStub(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      super(channel, callOptions);
    }

    @java.lang.Override
    protected TelemetryServiceBlockingStub build(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      return new TelemetryServiceBlockingStub(channel, callOptions);
    }

    /**
     * <pre>
     * What decisions see: the newest reading of each app, now and whenever another one was taken. A reader that is slower than
     * readings are taken sees the newest one of each app, never a queue of old ones.
     * </pre>
     */
    public java.util.Iterator<dev.agentctl.v1.WatchSignalsResponse> watchSignals(
        dev.agentctl.v1.WatchSignalsRequest request) {
      return io.grpc.stub.ClientCalls.blockingServerStreamingCall(
          getChannel(), getWatchSignalsMethod(), getCallOptions(), request);
    }
  }

  /**
   * A stub to allow clients to do ListenableFuture-style rpc calls to service TelemetryService.
   * <pre>
   * Takes in what monitors see.
   * </pre>
   */
  public static final class TelemetryServiceFutureStub
      extends io.grpc.stub.AbstractFutureStub<TelemetryServiceFutureStub> {
    private TelemetryServiceFutureStub(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      super(channel, callOptions);
    }

    @java.lang.Override
    protected TelemetryServiceFutureStub build(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      return new TelemetryServiceFutureStub(channel, callOptions);
    }
  }

  private static final int METHODID_WATCH_SIGNALS = 0;
  private static final int METHODID_PUSH_SIGNALS = 1;
  private static final int METHODID_STREAM_SIGNALS = 2;

  private static final class MethodHandlers<Req, Resp> implements
      io.grpc.stub.ServerCalls.UnaryMethod<Req, Resp>,
      io.grpc.stub.ServerCalls.ServerStreamingMethod<Req, Resp>,
      io.grpc.stub.ServerCalls.ClientStreamingMethod<Req, Resp>,
      io.grpc.stub.ServerCalls.BidiStreamingMethod<Req, Resp> {
    private final AsyncService serviceImpl;
    private final int methodId;

    MethodHandlers(AsyncService serviceImpl, int methodId) {
      this.serviceImpl = serviceImpl;
      this.methodId = methodId;
    }

    @java.lang.Override
    @java.lang.SuppressWarnings("unchecked")
    public void invoke(Req request, io.grpc.stub.StreamObserver<Resp> responseObserver) {
      switch (methodId) {
        case METHODID_WATCH_SIGNALS:
          serviceImpl.watchSignals((dev.agentctl.v1.WatchSignalsRequest) request,
              (io.grpc.stub.StreamObserver<dev.agentctl.v1.WatchSignalsResponse>) responseObserver);
          break;
        default:
          throw new AssertionError();
      }
    }

    @java.lang.Override
    @java.lang.SuppressWarnings("unchecked")
    public io.grpc.stub.StreamObserver<Req> invoke(
        io.grpc.stub.StreamObserver<Resp> responseObserver) {
      switch (methodId) {
        case METHODID_PUSH_SIGNALS:
          return (io.grpc.stub.StreamObserver<Req>) serviceImpl.pushSignals(
              (io.grpc.stub.StreamObserver<dev.agentctl.v1.PushSignalsResponse>) responseObserver);
        case METHODID_STREAM_SIGNALS:
          return (io.grpc.stub.StreamObserver<Req>) serviceImpl.streamSignals(
              (io.grpc.stub.StreamObserver<dev.agentctl.v1.StreamSignalsResponse>) responseObserver);
        default:
          throw new AssertionError();
      }
    }
  }

  public static final io.grpc.ServerServiceDefinition bindService(AsyncService service) {
    return io.grpc.ServerServiceDefinition.builder(getServiceDescriptor())
        .addMethod(
          getPushSignalsMethod(),
          io.grpc.stub.ServerCalls.asyncClientStreamingCall(
            new MethodHandlers<
              dev.agentctl.v1.PushSignalsRequest,
              dev.agentctl.v1.PushSignalsResponse>(
                service, METHODID_PUSH_SIGNALS)))
        .addMethod(
          getStreamSignalsMethod(),
          io.grpc.stub.ServerCalls.asyncBidiStreamingCall(
            new MethodHandlers<
              dev.agentctl.v1.StreamSignalsRequest,
              dev.agentctl.v1.StreamSignalsResponse>(
                service, METHODID_STREAM_SIGNALS)))
        .addMethod(
          getWatchSignalsMethod(),
          io.grpc.stub.ServerCalls.asyncServerStreamingCall(
            new MethodHandlers<
              dev.agentctl.v1.WatchSignalsRequest,
              dev.agentctl.v1.WatchSignalsResponse>(
                service, METHODID_WATCH_SIGNALS)))
        .build();
  }

  private static abstract class TelemetryServiceBaseDescriptorSupplier
      implements io.grpc.protobuf.ProtoFileDescriptorSupplier, io.grpc.protobuf.ProtoServiceDescriptorSupplier {
    TelemetryServiceBaseDescriptorSupplier() {}

    @java.lang.Override
    public com.google.protobuf.Descriptors.FileDescriptor getFileDescriptor() {
      return dev.agentctl.v1.TelemetryProto.getDescriptor();
    }

    @java.lang.Override
    public com.google.protobuf.Descriptors.ServiceDescriptor getServiceDescriptor() {
      return getFileDescriptor().findServiceByName("TelemetryService");
    }
  }

  private static final class TelemetryServiceFileDescriptorSupplier
      extends TelemetryServiceBaseDescriptorSupplier {
    TelemetryServiceFileDescriptorSupplier() {}
  }

  private static final class TelemetryServiceMethodDescriptorSupplier
      extends TelemetryServiceBaseDescriptorSupplier
      implements io.grpc.protobuf.ProtoMethodDescriptorSupplier {
    private final java.lang.String methodName;

    TelemetryServiceMethodDescriptorSupplier(java.lang.String methodName) {
      this.methodName = methodName;
    }

    @java.lang.Override
    public com.google.protobuf.Descriptors.MethodDescriptor getMethodDescriptor() {
      return getServiceDescriptor().findMethodByName(methodName);
    }
  }

  private static volatile io.grpc.ServiceDescriptor serviceDescriptor;

  public static io.grpc.ServiceDescriptor getServiceDescriptor() {
    io.grpc.ServiceDescriptor result = serviceDescriptor;
    if (result == null) {
      synchronized (TelemetryServiceGrpc.class) {
        result = serviceDescriptor;
        if (result == null) {
          serviceDescriptor = result = io.grpc.ServiceDescriptor.newBuilder(SERVICE_NAME)
              .setSchemaDescriptor(new TelemetryServiceFileDescriptorSupplier())
              .addMethod(getPushSignalsMethod())
              .addMethod(getStreamSignalsMethod())
              .addMethod(getWatchSignalsMethod())
              .build();
        }
      }
    }
    return result;
  }
}
