//! How others hear what happens: a feed of what is new, and followers that miss nothing.

mod feed;
mod follower;

pub(crate) use feed::Feed;
pub use feed::{FEED_CAPACITY, Lagged, Subscription, Update};
pub use follower::{Followed, Follower, RentalFollower, RentalUpdate};
