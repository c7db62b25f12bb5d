use super::*;

#[test]
fn a_bad_image_costs_only_its_own_page() {
    let mut gathered = GatheredText::default();
    gathered.add(words(&["one", "two"])).unwrap();
    gathered
        .add(Err(Failure::invalid_field("images[1].imageUrl", "not found")))
        .unwrap();
    gathered.add(words(&[])).unwrap();
    gathered.add(words(&["three"])).unwrap();
    assert_eq!(
        serde_json::to_value(gathered.output().unwrap()).unwrap(),
        json!({
            "success": true,
            "result": {
                "text": "--- Image 1 ---\none\ntwo\n\n--- Image 4 ---\nthree",
                "pages": [
                    { "page": 1, "text": "one\ntwo", "lines": ["one", "two"] },
                    { "page": 2, "text": "", "lines": [],
                      "error": "payload field \"images[1].imageUrl\": not found" },
                    { "page": 3, "text": "", "lines": [] },
                    { "page": 4, "text": "three", "lines": ["three"] },
                ],
                "pageCount": 4, "imagesProcessed": 3, "totalImages": 4,
            },
        })
    );
}

#[test]
fn a_job_without_a_readable_image_fails_with_all_reasons() {
    let mut gathered = GatheredText::default();
    gathered.add(Err(Failure::permanent("not an image"))).unwrap();
    gathered.add(Err(Failure::permanent("too small"))).unwrap();
    let failure = gathered.output().unwrap_err();
    assert_eq!(failure.class(), FailureClass::Permanent);
    assert_eq!(
        failure.message(),
        "no image could be read: image 1: not an image; image 2: too small"
    );

    let mut single = GatheredText::default();
    single
        .add(Err(Failure::permanent("too small").with_status(400)))
        .unwrap();
    let failure = single.output().unwrap_err();
    assert_eq!((failure.message(), failure.status()), ("too small", Some(400)));
}

#[test]
fn any_other_failure_is_the_jobs() {
    use FailureClass::{Blocked, Cancelled, Deployment, OutOfQuota, RateLimited, Transient};
    for class in [Transient, RateLimited, OutOfQuota, Deployment, Blocked, Cancelled] {
        let mut gathered = GatheredText::default();
        gathered.add(words(&["one"])).unwrap();
        assert_eq!(
            gathered.add(Err(Failure::new(class, "x"))).unwrap_err().class(),
            class
        );
    }
}

#[test]
fn an_image_that_is_not_to_be_had_costs_its_page_whatever_the_reason() {
    use FailureClass::{Deployment, OutOfQuota, Permanent, RateLimited, Transient};
    for class in [Transient, Deployment, RateLimited, OutOfQuota, Permanent] {
        let mut gathered = GatheredText::default();
        gathered.miss(Failure::new(class, "not there")).unwrap();
        gathered.add(words(&["one"])).unwrap();
        let result = gathered.output().unwrap().result;
        assert_eq!((result.images_processed, result.total_images), (1, 2));
        assert_eq!(
            (result.pages[0].page, result.pages[0].error.as_deref()),
            (1, Some("not there"))
        );
    }
    let mut gathered = GatheredText::default();
    let failure = gathered
        .miss(Failure::new(FailureClass::Cancelled, "stop"))
        .unwrap_err();
    assert_eq!(failure.class(), FailureClass::Cancelled);
}

#[test]
fn without_any_image_the_one_that_may_come_decides() {
    let miss = |classes: &[FailureClass]| {
        let mut gathered = GatheredText::default();
        for class in classes {
            gathered.miss(Failure::new(*class, class.as_str())).unwrap();
        }
        gathered.output().unwrap_err()
    };
    use FailureClass::{Deployment, Permanent, Transient};
    let failure = miss(&[Permanent, Transient, Deployment]);
    assert_eq!((failure.class(), failure.message()), (Transient, "transient"));
    let failure = miss(&[Permanent, Deployment]);
    assert_eq!(failure.class(), Permanent);
    assert_eq!(
        failure.message(),
        "no image could be read: image 1: permanent; image 2: deployment"
    );
}
