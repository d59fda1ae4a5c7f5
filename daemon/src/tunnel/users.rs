//! Users behind the tunnel count among the daemon's clients: a user with calls under way is one client, however
//! many connections it has to the relay.

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, ready};

use betcode_schema_tunnel::metadata;
use betcode_service::sync::lock;
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::body::Body;
use tower::Service;

use super::figures::CallUnderWay;
use crate::core::Core;
use crate::observe::add;
use crate::transport::Client;

/// Adds its client to every request, for the gate behind it.
#[derive(Clone)]
pub(crate) struct Users<S> {
    core: Arc<Core>,
    under_way: Arc<Mutex<HashMap<String, Weak<Client>>>>,
    inner: S,
}

impl<S> Users<S> {
    pub(crate) fn before(core: Arc<Core>, inner: S) -> Self {
        Self {
            core,
            under_way: Arc::default(),
            inner,
        }
    }

    fn client(&self, user: &str) -> Arc<Client> {
        let mut users = lock(&self.under_way);
        if let Some(client) = users.get(user).and_then(Weak::upgrade) {
            return client;
        }
        users.retain(|_, client| client.strong_count() > 0);
        let client = Arc::new(Client::named(&format!("user {user}")));
        users.insert(user.to_owned(), Arc::downgrade(&client));
        client
    }
}

impl<S, B> Service<Request<B>> for Users<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        add(&self.core.metrics.tunnel_requests, 1);
        let call = self.core.metrics.tunnel.begin_call();
        let user = request.headers().get(metadata::USER);
        let user = user.and_then(|user| user.to_str().ok()).unwrap_or_default();
        let client = self.client(user);
        request.extensions_mut().insert(Client::clone(&client));
        let answered = self.inner.call(request);
        Box::pin(async move {
            let Ok(response) = answered.await;
            let held = Some((client, call));
            Ok(response.map(|body| Body::new(HeldBody { body, held })))
        })
    }
}

/// An answer that keeps its client's slot, and counts as a call under way, until it is over.
struct HeldBody {
    body: Body,
    held: Option<(Arc<Client>, CallUnderWay)>,
}

impl HttpBody for HeldBody {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if frame.is_none() {
            self.held = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
